"""Command line for initial weights and scales: ``python -m orchestrator.sources list|show|check|convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.known_models import KnownModels
from orchestrator.source_texts import (
    is_factory,
    nothing_of_that_name,
    print_catalogue,
    print_entry,
    print_scale,
    print_scales,
)
from orchestrator.terminal import make_console, user_errors
from search_spaces.catalogue import catalogue, other_hash
from search_spaces.exceptions import ScalecurvesError, UserError, unknown
from search_spaces.expand import expand
from search_spaces.files import LoadedStudy, load_study
from search_spaces.home import scalecurves_home
from search_spaces.identity import Cards, ScaleCard
from search_spaces.normalisation import Normalisation
from search_spaces.resolve import Resolver
from search_spaces.source_specs import (
    ByScaleSource,
    CheckpointSource,
    GaborSpec,
    MeanVarSpec,
    PartialSpec,
    RandomSource,
    Source,
    TimmSource,
    TransformSource,
    TrialSource,
)
from trainables.converters import CONVERTERS, convert_file
from trainables.hashing import file_sha256

app = typer.Typer(
    name="sources",
    help="Look at the initial weights and models of a study, and check that they fit each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
StudyOption = Annotated[str, typer.Option("--study", help="Preset, YAML file or module:function.")]
_CHECK_OUTPUTS = 2
_MOST_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """A source for one scale; transforms followed to what they start from."""

    scale: str
    form: str
    weights: Source | None
    """None where the source has nothing for this scale."""

    @property
    def file(self) -> Path | None:
        return Path(self.weights.file) if isinstance(self.weights, CheckpointSource) else None


@app.command("list")
def list_(
    study: StudyOption = "demo",
    catalogue: Annotated[bool, typer.Option("--catalogue", help="List published weights that are known.")] = False,
    scales: Annotated[bool, typer.Option("--scales", help="List model scales with size and cost.")] = False,
    family: Annotated[str | None, typer.Option("--family", help="With --scales: a ladder or family, or all.")] = None,
) -> None:
    """List the sources of a study: per scale, where the weights come from and whether they are there."""
    with user_errors():
        console = make_console()
        if scales or family is not None:
            print_scales(family, KnownModels(scalecurves_home()), console)
        elif catalogue:
            print_catalogue(console)
        else:
            _list_study(load_study(study), console)


def _list_study(loaded: LoadedStudy, console: Console) -> None:
    table = Table("source", "scale", "form", "weights", "sha256", "state", title=f"sources of {loaded.study.name}")
    for name in _names(loaded):
        for weights in _per_scale(loaded, name):
            table.add_row(escape(name), escape(weights.scale), weights.form, *map(escape, _found(weights)))
    console.print(table)
    console.print("Published weights: list --catalogue. Models: list --scales. One of them: show NAME.", style="dim")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A source of the study, a catalogue entry, a scale or a factory.")],
    study: StudyOption = "demo",
) -> None:
    """Show one source (how its weights are read), one entry of the catalogue (what is known), or one model scale."""
    with user_errors():
        loaded, console = load_study(study), make_console()
        if name in _names(loaded):
            for weights in _per_scale(loaded, name):
                console.print(
                    f"[bold]{escape(name)}[/bold] for {escape(weights.scale)}: {weights.form}", highlight=False
                )
                for key, value in _settings(weights).items():
                    console.print(f"  {key}: {escape(value)}", highlight=False)
        elif name in catalogue():
            print_entry(name, console)
        elif name in loaded.study.scales or is_factory(name):
            print_scale(name, loaded, KnownModels(scalecurves_home()), console)
        else:
            raise UserError(nothing_of_that_name(name, _names(loaded), loaded))


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help=f"What the file is: {', '.join(CONVERTERS)}.")],
    file: Annotated[Path, typer.Argument(help="The published file.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Convert weights that were published in a form that only other software reads. No code of the file is run."""
    with user_errors():
        if kind not in CONVERTERS:
            raise UserError(unknown("kind of file", kind, CONVERTERS))
        make_console().print(f"{out}: {convert_file(kind, file, out)} tensors, names as torchvision's ResNet-50")


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Name of a source; all if not given.")] = None,
    study: StudyOption = "demo",
) -> None:
    """Load sources into the scales of a study and print the receipts; exit code 1 if one does not fit."""
    with user_errors():
        loaded = load_study(study)
        if name is not None and name not in _names(loaded):
            raise UserError(unknown("source", name, _names(loaded), f"study {loaded.study.name}"))
        console = make_console()
        failed = 0
        for source in [name] if name is not None else _names(loaded):
            for weights in _per_scale(loaded, source):
                failed += not _check_one(loaded, source, weights, console)
        if failed:
            raise UserError(f"{failed} of the sources do not fit; see above")


def _names(loaded: LoadedStudy) -> list[str]:
    """Sources of the axes and of upstream trials, then those that are only defined."""
    used = [t.cell.pretraining_source for t in expand(loaded.study).trials]
    return list(dict.fromkeys([*used, *loaded.study.sources]))


def _per_scale(loaded: LoadedStudy, name: str) -> list[_Weights]:
    """The source for each scale that the study uses it with; for all its scales if it is used with none."""
    trials = expand(loaded.study).trials
    scales = dict.fromkeys(t.cell.model_scale for t in trials)
    used = dict.fromkeys(t.cell.model_scale for t in trials if t.cell.pretraining_source == name)
    return [_weights(loaded, name, scale) for scale in used or scales]


def _weights(loaded: LoadedStudy, name: str, scale: str) -> _Weights:
    source = loaded.study.source(name)
    if isinstance(source, TransformSource):
        inner = _weights(loaded, source.of, scale).weights
        has_cut = not isinstance(source, PartialSpec) or source.cut(scale) is not None
        return _Weights(scale=scale, form=_transform_form(source, scale), weights=inner if has_cut else None)
    if isinstance(source, ByScaleSource):
        weights = source.by_scale.get(scale)
        return _Weights(scale=scale, form=_form(weights), weights=weights)
    return _Weights(scale=scale, form=_form(source), weights=source)


def _transform_form(source: TransformSource, scale: str) -> str:
    if isinstance(source, MeanVarSpec):
        drawn = "" if source.draw == "gaussian" else f"{source.draw}, "
        return f"{source.transform} ({drawn}{source.norm} norms) of {source.of}"
    assert isinstance(source, PartialSpec)
    return f"{source.transform} (up to {source.cut(scale) or 'nothing here'}) of {source.of}"


def _form(source: Source | None) -> str:
    forms: tuple[tuple[type[object], str], ...] = (
        (RandomSource, "random"),
        (GaborSpec, "gabor"),
        (CheckpointSource, "file"),
        (TimmSource, "timm"),
        (TrialSource, "trial"),
    )
    return next((form for kind, form in forms if isinstance(source, kind)), "none")


def _found(weights: _Weights) -> tuple[str, str, str]:
    """Where the weights come from, the start of their hash, and whether they are there."""
    source = weights.weights
    if source is None:
        return "", "", "no weights for this scale"
    if isinstance(source, CheckpointSource):
        try:
            return Path(source.file).name, file_sha256(source.file)[:12], "present"
        except UserError:
            return source.file, "", "missing"
    if isinstance(source, TimmSource):
        return source.timm, "", "fetched by timm when needed"
    if isinstance(source, TrialSource):
        upstream = source.trial
        return (
            f"{upstream.task} {upstream.data_fraction.label} from {upstream.pretraining_source}",
            "",
            "made by a trial",
        )
    return "", "", "drawn from the seed"


def _settings(weights: _Weights) -> dict[str, str]:
    source = weights.weights
    if source is None:
        return {"weights": "none for this scale"}
    settings = {k: _text(v) for k, v in source.model_dump(mode="json").items() if v not in (None, [], (), "")}
    if isinstance(source, CheckpointSource):
        settings |= _file_settings(source)
    return settings


def _text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == set(Normalisation.model_fields):
        return f"mean {value['mean']}, std {value['std']}"
    return _some([str(v) for v in value]) if isinstance(value, list) else str(value)


def _some(texts: list[str]) -> str:
    more = len(texts) - _MOST_NAMES
    return ", ".join(texts[:_MOST_NAMES]) + (f", ... ({more} more)" if more > 0 else "")


def _file_settings(source: CheckpointSource) -> dict[str, str]:
    from trainables.checkpoint_files import read_source

    sha256 = file_sha256(source.file)
    tensors = read_source(source)
    return {
        "sha256": sha256,
        "tensors": f"{len(tensors)}, {sum(t.numel() for t in tensors.values())} numbers",
        "first tensors": _some([f"{n} {tuple(t.shape)}" for n, t in tensors.items()]),
    }


def _check_one(loaded: LoadedStudy, name: str, weights: _Weights, console: Console) -> bool:
    """Load one source into one scale; print the receipt or the error."""
    title = f"[bold]{escape(name)}[/bold] for {escape(weights.scale)}"
    if weights.weights is None:
        console.print(f"{title}: no weights for this scale; its cells are left out", highlight=False)
        return True
    try:
        lines = _receipt(loaded, name, weights)
    except ScalecurvesError as error:
        console.print(f"{title}: [red]does not fit[/red]\n  {escape(str(error))}", highlight=False)
        return False
    console.print(f"{title}: [green]fits[/green]", highlight=False)
    for line in lines:
        console.print(f"  {escape(line)}", highlight=False)
    return True


def _receipt(loaded: LoadedStudy, name: str, weights: _Weights) -> list[str]:
    from trainables.models import build_model, scale_card
    from trainables.sources import initialise
    from trainables.timm_files import with_local_files

    paths = tuple(dict.fromkeys((str(loaded.folder), str(Path.cwd()))))
    card: ScaleCard = with_local_files(scale_card(str(loaded.study.scale(weights.scale).factory), paths))
    files = {str(weights.file): file_sha256(weights.file, f"sources.{name}")} if weights.file else {}
    resolver = Resolver(loaded.study, Cards(scales={weights.scale: card}, files=files, tasks={}))
    scale = resolver.scale_under(weights.scale, loaded.study.protocol)
    built = build_model(scale, _CHECK_OUTPUTS, seed=0, import_paths=paths)
    size = f"{built.parameters} parameters, {built.backbone_parameters} without the head ({', '.join(built.head)})"
    if isinstance(weights.weights, TrialSource):
        return [size, "weights are made by a trial of the study and can be checked when it is done"]
    receipt = initialise(built, resolver.source(name, weights.scale), _no_upstream, seed=0)
    shown = receipt.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    other = other_hash(receipt.catalogue, receipt.content) if receipt.content else ""
    remarks = [f"note: {other}"] if other else []
    return [
        size,
        *remarks,
        *(f"{key}: {_text(value)}" for key, value in shown.items() if key not in ("head", "source", "seed")),
    ]


def _no_upstream(trial_id: str) -> Path:
    raise UserError(f"the weights of trial {trial_id} are not at hand")


if __name__ == "__main__":
    app()
