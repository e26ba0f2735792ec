"""Where models come from: timm, torchvision, or a function in a module of the user's.

A factory is written as a timm name (``resnet50`` or ``timm:resnet50``), ``torchvision:NAME``, or ``pkg.mod:function``.
The last is called with ``num_classes`` and the scale's arguments, and its module is looked up beside the study first.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

from torch import nn

from search_spaces.exceptions import UserError, unknown
from trainables.user_modules import code_sha256, import_user_module

WRITTEN_AS = "a timm name, torchvision:NAME or pkg.mod:function"

_WEIGHT_ARGUMENTS = {"pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
_NO_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": True}


class Origin(StrEnum):
    """Who makes the model."""

    TIMM = "timm"
    TORCHVISION = "torchvision"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factory:
    """Makes models.

    Attributes:
        text: As written in the study.
        origin: Who makes the model.
        name: Name of the model there, without timm's pretrained tag.
        tag: timm's pretrained tag, if one was written; the model does not depend on it.
        function: Called with ``num_classes`` and further keyword arguments.
        native_size: Side in pixels of the square input that the model is made for; None if it states none.
        size_arguments: Input size -> arguments that a model of fixed input size needs.
        defaults: Arguments that the scale's own may replace.
        sha256: Hash of the code of a user's factory; None for timm, torchvision and the nets of this package, whose
            versions are recorded instead.
    """

    text: str
    origin: Origin
    name: str
    tag: str | None = None
    function: Callable[..., nn.Module]
    native_size: int | None = None
    size_arguments: Callable[[int], Mapping[str, Any]] = lambda size: {}
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    def keywords(self, arguments: Mapping[str, Any], input_size: int | None) -> dict[str, Any]:
        """All keyword arguments of a model but ``num_classes``.

        Raises:
            UserError: An argument that is not the scale's to give.
        """
        taken = {"num_classes"} if self.origin is Origin.USER else {"num_classes", *_WEIGHT_ARGUMENTS}
        for name in arguments:
            if name in taken:
                why = "the task" if name == "num_classes" else "the study's sources"
                raise UserError(f"{self.text}: argument {name!r} is given by {why}; take it out of the scale")
        sized = {} if input_size is None else self.size_arguments(input_size)
        return {**self.defaults, **sized, **arguments}

    def make(self, num_outputs: int, arguments: Mapping[str, Any], input_size: int | None) -> nn.Module:
        """A model with freshly drawn weights.

        Raises:
            UserError: The factory fails, or returns no module.
        """
        keywords = self.keywords(arguments, input_size)
        try:
            module = self.function(num_classes=num_outputs, **keywords)
        except Exception as error:
            shown = ", ".join(f"{k}={v!r}" for k, v in {"num_classes": num_outputs, **keywords}.items())
            raise UserError(f"{self.text} called with {shown} failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise UserError(f"{self.text} must return a torch.nn.Module, got {type(module).__name__}")
        return module


def find_factory(text: str, import_paths: Sequence[str] = ()) -> Factory:
    """The factory of that name.

    Args:
        text: See the module's docstring.
        import_paths: Folders in which a user's module is looked up first.

    Raises:
        UserError: No such model, module or function, or the function does not take ``num_classes``.
    """
    origin, colon, name = text.partition(":")
    if not colon or origin == Origin.TIMM:
        return _timm_factory(text, name if colon else text)
    if origin == Origin.TORCHVISION:
        return _torchvision_factory(text, name)
    return _user_factory(text, origin, name, import_paths)


def _timm_factory(text: str, name_with_tag: str) -> Factory:
    import timm
    from timm.models import get_pretrained_cfg

    name, _, tag = name_with_tag.partition(".")
    if not timm.is_model(name):
        raise UserError(f"unknown timm model {name!r}.{_nearest(name, timm.list_models())}{_elsewhere(name)}")
    if tag and name_with_tag not in timm.list_models(name, include_tags=True):
        tags = [m.partition(".")[2] for m in timm.list_models(name, include_tags=True)]
        raise UserError(unknown(f"pretrained tag of timm's {name}", tag, tags))
    native = get_pretrained_cfg(name)
    fixed = native is not None and native.fixed_input_size
    return Factory(
        text=text,
        origin=Origin.TIMM,
        name=name,
        tag=tag or None,
        function=partial(timm.create_model, name, pretrained=False),
        native_size=native.input_size[-1] if native is not None else None,
        size_arguments=(lambda size: {"img_size": size}) if fixed else (lambda size: {}),
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    """The nearest of more than a thousand names, which are too many to list."""
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f'{hint} All {len(known)} names: python -c "import timm; print(*timm.list_models())".'


def _elsewhere(name: str) -> str:
    """Where a name that timm does not know would be known."""
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        return f" torchvision has it: write torchvision:{name}."
    return f" A model is {WRITTEN_AS}."


def _torchvision_factory(text: str, name: str) -> Factory:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(unknown("torchvision classification model", name, known))
    auxiliary = name in ("inception_v3", "googlenet")
    return Factory(
        text=text,
        origin=Origin.TORCHVISION,
        name=name,
        function=partial(_torchvision_model, name),
        native_size=_torchvision_size(name),
        size_arguments=_torchvision_size_arguments(name),
        defaults=_NO_AUXILIARY_HEADS if auxiliary else {},
    )


def _torchvision_model(name: str, **arguments: Any) -> Any:
    """torchvision's network, whose outputs are logits: its SqueezeNets end in a ReLU, which cannot say no.

    With a sigmoid loss that ReLU dies in a few steps and the network answers 0 to every image.
    """
    import torchvision
    from torch import nn

    network = torchvision.models.get_model(name, weights=None, **arguments)
    if isinstance(network, torchvision.models.SqueezeNet):
        network.classifier[2] = nn.Identity()
    return network


def _torchvision_size(name: str) -> int:
    """The size that the first published weights of a convolutional net were evaluated at; transformers are fixed."""
    import torchvision

    if name.startswith("vit_"):
        return 224
    for weights in torchvision.models.get_model_weights(name):
        return int(weights.transforms().crop_size[0])
    return 224


def _torchvision_size_arguments(name: str) -> Callable[[int], Mapping[str, Any]]:
    if name.startswith("vit_"):
        return lambda size: {"image_size": size}
    if name == "maxvit_t":
        return lambda size: {"input_size": (size, size)}
    return lambda size: {}


def _user_factory(text: str, module_name: str, function_name: str, import_paths: Sequence[str]) -> Factory:
    module = import_user_module(module_name, import_paths, named_in=text)
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise UserError(unknown("function", function_name, known, f"module {module_name} ({module.__file__})"))
    _refuse_without_num_classes(text, function)
    own = module_name.partition(".")[0] == __name__.partition(".")[0]
    return Factory(
        text=text,
        origin=Origin.USER,
        name=f"{module_name}:{function_name}",
        function=function,
        sha256=None if own else code_sha256(module, function),
    )


def _refuse_without_num_classes(text: str, function: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return  # a builtin without a signature: the call itself will tell
    takes = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = parameters.get("num_classes")
    if not takes and (named is None or named.kind is named.POSITIONAL_ONLY):
        raise UserError(
            f"{text} must take num_classes (the number of outputs) as a keyword argument; "
            f"it takes ({', '.join(parameters) or 'nothing'})"
        )
