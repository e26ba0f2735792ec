"""Budgets in operations: what an image costs, how many steps follow, and what a plan says of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from orchestrator.known_models import KnownModels
from orchestrator.plan_data import Findings
from search_spaces.exceptions import UserError
from search_spaces.expand import Trial
from search_spaces.resolve import Resolver
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale
from trainables.steps import flops_of_step, total_steps


def count_budgets(
    resolver: Resolver, trials: Iterable[Trial], models: KnownModels, import_paths: Sequence[str], found: Findings
) -> None:
    """Count an image of every scale that has a budget in operations, note the steps, and refuse what cannot be counted.

    Args:
        resolver: Takes the costs.
        trials: That are planned, templates of searches among them.
        models: Counts, and remembers.
        import_paths: Folders in which a user's module is looked up first.
        found: Takes notes and problems.
    """
    for trial in trials:
        protocol = resolver.protocol_of(trial)
        if protocol.budget.flops is None:
            continue
        scale = resolver.scale(trial.cell)
        if scale.gflops is None:
            outputs = resolver.pixel_outputs(trial.cell)
            gflops = found.attempt(_gflops, scale, outputs, models, import_paths)
            if gflops is None:
                continue
            resolver.gflops[scale.name, scale.input_size, outputs] = gflops
        found.attempt(_note_steps, resolver, trial, found)


def note_unets(
    resolver: Resolver, trials: Iterable[Trial], models: KnownModels, import_paths: Sequence[str], found: Findings
) -> None:
    """Note what a scale costs as the encoder of a U-Net, where its trials outline masks and it can be counted.

    The card of a scale is that of the classifier.
    """
    noted: set[tuple[str, int, int]] = set()
    for cell in dict.fromkeys(trial.cell for trial in trials):
        outputs = resolver.pixel_outputs(cell)
        if not outputs:
            continue
        scale = resolver.scale(cell)
        key = (scale.name, scale.input_size, outputs)
        if key in noted:
            continue
        noted.add(key)
        with contextlib.suppress(UserError):  # a problem only where steps follow from it
            costs = models.unet_costs(scale, outputs, import_paths).text
            found.notes.append(f"scale {scale.name!r} as the encoder of a U-Net at {scale.input_size} px: {costs}")


def gflops_of_image(scale: ResolvedScale, outputs: int, models: KnownModels, import_paths: Sequence[str]) -> float:
    """1e9 operations of one image's forward pass, of the card that ``sources show`` prints.

    Args:
        scale: With the trial's input size.
        outputs: Per pixel of masks, whose whole U-Net is counted; else 0.
        models: Counts, and remembers.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: They cannot be counted.
    """
    if outputs:
        return models.unet_costs(scale, outputs, import_paths).gflops
    spec = ScaleSpec(factory=scale.factory, arguments=scale.arguments, input_size=scale.input_size)
    return models.model_card(scale.factory, spec, import_paths=import_paths).gflops


def _gflops(scale: ResolvedScale, outputs: int, models: KnownModels, import_paths: Sequence[str]) -> float:
    """The same, where steps follow from it.

    Raises:
        UserError: They cannot be counted.
    """
    try:
        gflops = gflops_of_image(scale, outputs, models, import_paths)
    except UserError as error:
        raise UserError(
            f"scale {scale.name!r} has no budget in flops, as its operations cannot be counted; give protocol.budget: "
            f"{{steps: N}}. {error}"
        ) from error
    if gflops <= 0:
        raise UserError(f"scale {scale.name!r} counts no operations (no convolution, no matrix product); give steps")
    return gflops


def _note_steps(resolver: Resolver, trial: Trial, found: Findings) -> None:
    """Note how many steps follow.

    Raises:
        UserError: Not one.
    """
    scale, protocol = resolver.scale(trial.cell), resolver.protocol_of(trial)
    flops, gflops = protocol.budget.flops, scale.gflops
    assert flops is not None
    assert gflops is not None
    of_step = flops_of_step(gflops, protocol.global_batch_size)
    if flops < of_step:
        raise UserError(
            f"protocol.budget: {flops:g} flops are less than one step of scale {scale.name!r}, which takes "
            f"{of_step:.3g} (3 x {gflops:g} GFLOPs x batch {protocol.global_batch_size})"
        )
    unet = " as the encoder of a U-Net" if resolver.pixel_outputs(trial.cell) else ""
    steps = total_steps(protocol.budget, 1, protocol.global_batch_size, gflops)
    note = (
        f"scale {scale.name!r}{unet} at {scale.input_size} px: {flops:g} flops are {steps:,} steps of {of_step:.3g} "
        f"(3 x {gflops:g} GFLOPs x batch {protocol.global_batch_size})"
    )
    if note not in found.notes:
        found.notes.append(note)
