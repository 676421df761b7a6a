"""Tensors that have shapes, strides and a device, and no numbers: code that runs on them shows what it would launch.

What torch's FakeTensorMode does, without its symbolic shapes (whose import takes a second): each tensor wraps one of
the meta device, and says that it lies on another, so that autocast, autograd and the choice of kernels are those of it.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
_DRAWS = ("normal_", "uniform_", "bernoulli_", "random_", "trunc_normal_", "exponential_")
"""Operators that only fill a tensor with other numbers."""


class Abstract(Tensor):
    """A tensor on `device` without numbers."""

    meta: Tensor
    is_meta = True

    @staticmethod
    def __new__(cls, meta: Tensor, device: torch.device) -> Abstract:
        made: Abstract = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=device,
        )
        made.meta = meta
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{func}: an abstract tensor outside the execution that it belongs to")


def _lay_out(parameter: Abstract) -> None:
    """Follow a change of memory format, which sets a parameter's data (nn.Module.to)."""
    if parameter.stride() != parameter.meta.stride():
        parameter.meta = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype, device="meta")


Launched = Callable[[Any, Sequence[Any], Any], None]
"""Told of each operator that reaches the device: the operator, its arguments and its result, on the meta device."""


class Execution(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, all tensors are abstract, and `launched` hears of every operator and `held` of storages that begin (True)
    and end (False) to live.

    A question about numbers that are not there gets yes, or 1: masks are full, texts are not padded.
    """

    def __init__(self, launched: Launched, held: Callable[[int, bool], None], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._launched, self._held, self._device = launched, held, device
        self._holders = Counter[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """To skip it torch imports all of it."""
        return False

    def tensor(self, like: Tensor) -> Abstract:
        """An abstract tensor as `like` is."""
        meta = like.meta if isinstance(like, Abstract) else like.detach().to("meta")
        return self._wrapped(meta)

    def _wrapped(self, meta: Tensor) -> Abstract:
        made = Abstract(meta, self._device)
        storage = meta.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._holders[key] += 1
        if self._holders[key] == 1:
            self._held(size, True)
        weakref.finalize(made, self._release, key, size)
        return made

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._held(size, False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return self._device
        if func.overloadpacket is aten._local_scalar_dense:
            return True if args[0].dtype is torch.bool else 1
        known: dict[int, Tensor] = {}

        def bare(tensor: Tensor) -> Tensor:
            if isinstance(tensor, nn.Parameter) and isinstance(tensor, Abstract):
                _lay_out(tensor)
            meta = tensor.meta if isinstance(tensor, Abstract) else tensor.to("meta")
            known[id(meta)] = tensor
            return meta

        given, named = tree_map_only(Tensor, bare, (tuple(args), dict(kwargs or {})))
        if any(argument.name == "device" for argument in func._schema.arguments):
            named["device"] = torch.device("meta")
        result = self._result(func, given, named)
        self._launched(func, (*given, *named.values()), result)
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else self._wrapped(t), result)

    def _result(self, func: Any, given: Sequence[Any], named: dict[str, Any]) -> Any:
        """By torch's own rules of shapes, but for what these import the compiler for (1 s)."""
        if func.overloadpacket.__name__ in _DRAWS:
            return given[0]
        if func.overloadpacket is aten.arange:
            start, end, step = (0, *given, 1) if len(given) == 1 else (*given, 1)[:3]
            return torch.empty(math.ceil((end - start) / step), dtype=named.get("dtype") or torch.int64, device="meta")
        if func.overloadpacket is aten.nonzero:
            return torch.empty(given[0].numel(), given[0].ndim, dtype=torch.int64, device="meta")
        result = func(*given, **named)
        if func.overloadpacket is aten.convolution_backward and given[1].ndim == 4:
            # gradients of pictures are laid out as what they are of, which the rule of shapes does not know
            of_inputs, of_weights, of_bias = result
            return (
                None if of_inputs is None else torch.empty_like(given[1]),
                None if of_weights is None else torch.empty_like(given[2]),
                of_bias,
            )
        return result
