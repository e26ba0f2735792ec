"""Networks on torch's meta device, which holds no numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search_spaces.exceptions import UserError

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.log_normal_, Tensor.exponential_})


class NothingDrawn(TorchFunctionMode):
    """Leaves out what would draw numbers into meta tensors, which hold none: drawing imports torch's compiler, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def without_numbers(make: Callable[[], nn.Module]) -> nn.Module:
    """What ``make`` builds, on the meta device. Some factories (torchvision's RegNets) read numbers of tensors that
    they make: these get numbers first.

    Raises:
        UserError: It cannot be built with numbers either.
    """
    try:
        with torch.device("meta"):
            return make()
    except UserError:
        with torch.device("cpu"):
            return make().to("meta")
