"""Networks on torch's meta device, which holds no numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.log_normal_, Tensor.exponential_})


class NothingDrawn(TorchFunctionMode):
    """Leaves out what would draw numbers into meta tensors, which hold none: drawing imports torch's compiler, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
