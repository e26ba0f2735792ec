"""The model card of an exported trial: Markdown with YAML front matter, in Hugging Face's form."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from search_spaces.names import Kind
from search_spaces.trial import ResolvedTrial

_METRIC_NAMES = {
    "auc": "AUC",
    "auc_macro": "macro AUC",
    "nll": "NLL",
    "accuracy": "accuracy",
    "kappa": "kappa",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95, original pixels, where defined",
    "nsd": "surface Dice",
    "false_positive_images": "share of images without the label with a prediction",
}

OWN_LOADER = """\
from trainables.exported import load_exported

model = load_exported(FOLDER)
probabilities = model.probabilities(images)  # (B, {side}, {side}, 3) uint8, RGB -> (B, {outputs})
"""

MASKS = """\
masks = model.masks(images)  # the same shape, booleans: at the thresholds in config.json, frozen before the test
"""

TIMM_LOADER = """\
import timm

network = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says beyond what the trial is.

    Attributes:
        run: The trial's row of ``dashboards.load.load_results``.
        metrics: As ``dashboards.trial_metrics.trial_metrics`` gives them.
        grades: Contrasts of the trial's cell in the study's last report.
        source_licence: Of the initial weights.
        data_licence: Of the images.
        is_timm: Whether timm alone can build the network.
    """

    run: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    grades: Sequence[Mapping[Any, Any]]
    source_licence: str
    data_licence: str
    is_timm: bool


def model_card_text(trial: ResolvedTrial, facts: CardFacts) -> str:
    """The whole card."""
    name = " · ".join(trial.axes.values())
    parts = [
        f"---\n{_front_matter(trial, facts, name)}\n---",
        f"# {name}",
        "A research result of a scale study (scalecurves). It is no medical device and must not be used for diagnosis.",
        f"## Model\n\n{_table(_model_rows(trial, facts))}",
        f"## Use\n\n{_use(trial, facts)}",
        f"## Results\n\n{_results(facts)}",
        "## What may be said\n\n" + "\n".join(f"- {line}" for line in _caveats(trial, facts)),
        f"## Licences\n\n- Initial weights: {facts.source_licence}\n- Training images: {facts.data_licence}\n"
        "- Both bind these weights, too.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(trial: ResolvedTrial, facts: CardFacts, name: str) -> str:
    results = [
        EvalResult(
            task_type=_pipeline(trial),
            dataset_type=trial.task.manifest,
            dataset_name=f"{trial.task.name} ({row['set']})",
            dataset_split=str(row["set"]),
            metric_type=str(row["metric"]),
            metric_name=_METRIC_NAMES.get(str(row["metric"]), str(row["metric"])),
            metric_value=round(float(row["value"]), 6),
        )
        for row in facts.metrics
        if _is_number(row["value"])
    ]
    data = ModelCardData(
        license="other",
        license_name="see-licences-below",
        library_name="timm" if facts.is_timm else "scalecurves",
        pipeline_tag=_pipeline(trial),
        tags=["medical-imaging", "transfer-learning", "scalecurves"],
        datasets=[trial.task.manifest],
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()


def _pipeline(trial: ResolvedTrial) -> str:
    return "image-segmentation" if trial.task.is_dense else "image-classification"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _model_rows(trial: ResolvedTrial, facts: CardFacts) -> list[tuple[str, str]]:
    run, protocol = facts.run, trial.protocol
    normalise = trial.source.normalise
    rows = [
        ("architecture", _architecture(trial)),
        ("parameters", _count(run.get("parameters"))),
        ("initial weights", f"{trial.source.name} ({trial.source.content or 'drawn from the seed'})"),
        ("task", f"{trial.task.name}: {trial.task.kind}, {', '.join(trial.task.labels)}"),
        ("labelled images", f"{trial.amount.label} of the training set: {_count(run.get('n_images'))}"),
        ("patients", _count(run.get("n_patients"))),
        ("seeds", f"subset {trial.seed.subset}, init {trial.seed.init}"),
        ("protocol", f"{protocol.base}, {_count(run.get('steps'))} steps of {protocol.global_batch_size} images"),
        ("selected", f"step {_count(run.get('best_step'))}, {protocol.select}"),
        ("input size", f"{trial.scale.input_size} px"),
        ("normalisation", f"RGB in [0, 1], mean {list(normalise.mean)}, std {list(normalise.std)}"),
        ("trial", trial.trial_id),
        ("manifest", trial.task.manifest_hash),
        ("code", run["commit"] if isinstance(run.get("commit"), str) else "no commit known"),
    ]
    if trial.task.nsd_tolerance is not None:
        rows.append(("surface Dice within", f"{trial.task.nsd_tolerance:g} px of the original image"))
    code = trial.scale.factory_sha256
    return [*rows, ("code of the network", f"sha256 {code}")] if code else rows


def _architecture(trial: ResolvedTrial) -> str:
    name = trial.scale.factory + (f" {trial.scale.arguments}" if trial.scale.arguments else "")
    return f"U-Net with {name} as its encoder" if trial.task.is_dense else name


def _count(value: Any) -> str:
    return f"{int(value):,}" if _is_number(value) else "not recorded"


def _use(trial: ResolvedTrial, facts: CardFacts) -> str:
    from trainables.task_data import worked_side

    side, labels = worked_side(trial.protocol, trial.scale.input_size), len(trial.task.labels)
    stored = trial.protocol.storage_size
    shape = f"{labels}, {stored}, {stored}" if trial.task.is_dense else str(labels)
    own = OWN_LOADER.format(side=side, outputs=shape) + (MASKS if trial.task.is_dense else "")
    outputs = "softmax" if trial.task.kind in (Kind.MULTICLASS, Kind.ORDINAL) else "sigmoid of each"
    squash = f"Images are squashed to {stored} x {stored} px (bicubic), then to {side} x {side} (bilinear)."
    text = f"{squash} `FOLDER` is this folder.\n\n```python\n{own}```"
    if facts.is_timm:
        views = trial.protocol.test_time_augmentation
        single = "" if views == "none" else f" of one view, without the protocol's {views}"
        text += f"\n\nOr with timm alone, which gives logits{single} ({outputs}):\n\n```python\n{TIMM_LOADER}```"
    return text


def _results(facts: CardFacts) -> str:
    if not facts.metrics:
        return "No predictions of it are in the record."
    rows = [
        (
            str(row["set"]),
            _METRIC_NAMES.get(str(row["metric"]), str(row["metric"])),
            f"{row['value']:.3f}" if _is_number(row["value"]) else "not defined",
            _interval(row),
            _count(row["n_patients"]),
            _count(row["images"]),
        )
        for row in facts.metrics
    ]
    level = facts.metrics[0]["level"]
    head = ("set", "metric", "value", f"{100 * level:g} % interval", "patients", "images")
    note = "Intervals are over patients: another seed is another model, whose spread is not in them."
    return f"{_table(rows, head)}\n\n{note}"


def _interval(row: Mapping[str, Any]) -> str:
    if not (_is_number(row["low"]) and _is_number(row["high"])):
        return "none"
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _caveats(trial: ResolvedTrial, facts: CardFacts) -> list[str]:
    lines = [f"{row['set']}: {row['words']} (grade {row['grade']}, all seeds of the study)" for row in facts.grades]
    lines = lines or [
        "The study's report grades no comparison of this cell: whether its initial weights help is not known from it."
    ]
    notes = dict.fromkeys(str(row["notes"]) for row in facts.metrics if row["notes"])
    lines += [f"Of the intervals: {note}" for note in notes]
    if facts.run.get("patients_known") is False:
        lines.append("Patients are not known: each image counts as one, and intervals are too narrow.")
    if facts.run.get("still_rising") is True:
        lines.append("Validation was still improving when training stopped.")
    near = trial.leakage.near_copies if trial.leakage else {}
    lines += [f"{name} holds {n} near copies of training images." for name, n in near.items() if n]
    return [
        *lines,
        "Selected on validation, scored on test once per study; other scanners and sites may give other numbers.",
    ]


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
