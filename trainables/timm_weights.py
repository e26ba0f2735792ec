"""timm's own pretrained weights: which there are, and their tensors, fetched by timm or from its local cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError, unknown
from trainables.factories import Factory
from trainables.random_state import own_random_state
from trainables.timm_files import LOCAL_VARIABLE, local_file, local_folder

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel of RGB in [0, 1]."""

_patching = threading.Lock()


def published_weights(factory: Factory) -> tuple[dict[str, Scaling], dict[str, str]]:
    """Input scaling, and ``name.tag@location``, of each tag of a timm model that has weights, and of ``default``."""
    import timm
    from timm.models import get_pretrained_cfg

    names = [n for n in timm.list_models(factory.name, include_tags=True) if n.partition(".")[0] == factory.name]
    configurations = {n.partition(".")[2]: get_pretrained_cfg(n) for n in names}
    configurations["default"] = get_pretrained_cfg(f"{factory.name}.{factory.tag}" if factory.tag else factory.name)
    scaling: dict[str, Scaling] = {}
    revision: dict[str, str] = {}
    for tag, configuration in configurations.items():
        if tag and configuration is not None and configuration.has_weights and len(configuration.mean) == 3:
            scaling[tag] = (tuple(configuration.mean), tuple(configuration.std))
            location = configuration.hf_hub_id or configuration.url or configuration.file
            revision[tag] = f"{factory.name}.{configuration.tag or 'default'}@{location}"
    return scaling, revision


def revision_of(factory: Factory, tag: str) -> str:
    """``name.tag@location`` of a timm model's pretrained weights.

    Args:
        factory: A timm factory.
        tag: Pretrained tag, or ``default``.

    Raises:
        UserError: No such tag.
    """
    known = published_weights(factory)[1]
    if tag not in known:
        raise UserError(unknown(f"pretrained tag of timm's {factory.name}", tag, known))
    return known[tag]


def fetch_pretrained(factory: Factory, tag: str, arguments: Mapping[str, Any], input_size: int) -> dict[str, Tensor]:
    """State dict of timm's model with its pretrained weights and its own head.

    timm loads leniently in several cases (another number of classes, models that ask for it) and says so in its log
    only. Here every number is marked before timm loads, and a mark that is left over is a tensor that was not loaded.

    Args:
        factory: A timm factory.
        tag: Pretrained tag, or ``default``.
        arguments: Further arguments of the model.
        input_size: Side in pixels; position embeddings are resampled by timm where its model does that.

    Raises:
        UserError: No such tag, weights that cannot be fetched or do not fill the model, a LOCAL_VARIABLE that names no
            folder.
    """
    import timm

    revision = revision_of(factory, tag)
    chosen = (factory.tag or "") if tag == "default" else tag
    name = f"{factory.name}.{chosen}" if chosen else factory.name
    loaded: list[nn.Module] = []
    keywords = factory.keywords(arguments, input_size)
    if (folder := local_folder()) is not None and not folder.is_dir():
        raise UserError(f"{LOCAL_VARIABLE} names {folder}, which is no folder")
    local = local_file(revision)
    if local is not None:
        keywords["pretrained_cfg_overlay"] = {"file": str(local)}
    try:
        with own_random_state(0), _marked_before_loading(loaded):
            model = timm.create_model(name, pretrained=True, **keywords)
    except Exception as error:
        raise UserError(_fetch_trouble(name, f"@{local}" if local else revision, error)) from error
    tensors: dict[str, Tensor] = model.state_dict()
    unfilled = [n for n, t in tensors.items() if t.is_floating_point() and bool(torch.isnan(t).any())]
    if model not in loaded or unfilled:
        listed = ", ".join(unfilled[:5]) or "all of them"
        raise UserError(f"timm's weights {name} leave {len(unfilled) or len(tensors)} tensors unset: {listed}")
    return tensors


@contextmanager
def _marked_before_loading(loaded: list[nn.Module]) -> Iterator[None]:
    """Fill each model that timm is about to load weights into with NaN; collect the models."""
    from timm.models import _builder

    original = _builder.load_pretrained

    def marked(model: nn.Module, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.fill_(float("nan"))
        original(model, *args, **kwargs)
        loaded.append(model)

    with _patching:
        _builder.load_pretrained = marked
        try:
            yield
        finally:
            _builder.load_pretrained = original


def _fetch_trouble(name: str, location: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    if isinstance(error, RuntimeError) and "state_dict" in str(error):
        return f"timm's weights {name} do not fit its model: {error}"
    return (
        f"timm's weights {name} could not be fetched from {location.partition('@')[2]} ({cause}). Without network, "
        f"fetch them once elsewhere (python -c \"import timm; timm.create_model('{name}', pretrained=True)\"), share "
        f"that cache by HF_HOME, put the file into a folder named by {LOCAL_VARIABLE}, name a mirror by HF_ENDPOINT, "
        "or give the file itself as a source: {file: ...}"
    )
