"""The operations of any network, by running it on tensors that have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fullbore.spec.work import Operation, OperationKind

aten = torch.ops.aten
_FREE = ("empty", "new_", "zeros", "ones", "full", "arange", "scalar_tensor", "detach", "alias", "lift", "rand")
_REDUCTIONS = ("sum", "mean", "amax", "max", "var", "argmax", "cumsum", "batch_norm", "layer_norm", "softmax")


class Tally:
    """Operations by name and shape, in the order in which they first came."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, OperationKind, tuple[int, ...], float, float], int] = {}

    def add(self, name: str, kind: OperationKind, shape: Sequence[int], flops: float, elements: float) -> None:
        key = (name, kind, tuple(shape), float(flops), float(elements))
        self._found[key] = self._found.get(key, 0) + 1

    def operations(self) -> tuple[Operation, ...]:
        return tuple(Operation(*key, count=count) for key, count in self._found.items())


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches the kernels. FLOPs are those of products: what moves or maps elements counts its elements.

    A question about numbers that are not there gets yes or 0: masks are full, texts are not packed.
    """

    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tally = tally

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket is aten._local_scalar_dense:
            return args[0].dtype is torch.bool
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        outputs = _tensors(result)
        returned = func._schema.returns
        view = bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write
        if outputs and not view and not name.lstrip("_").startswith(_FREE):
            self._count(name, func.overloadpacket, args, outputs[0])
        return result

    def _count(self, name: str, packet: Any, args: Sequence[Any], output: Tensor) -> None:
        inputs = _tensors(args)
        elements = sum(tensor.numel() for tensor in inputs) + output.numel()
        shape = tuple(output.shape)
        if packet in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
            first = inputs[1 if packet in (aten.addmm, aten.baddbmm) else 0]
            inner = first.shape[-1]
            sizes = (prod(shape[:-1]), shape[-1], inner)
            self._tally.add(name, "matmul", sizes, 2 * prod(sizes), elements)
        elif packet in (aten.convolution, aten._convolution):
            weight = inputs[1]
            each = weight.numel() / (weight.shape[1] if args[6] else weight.shape[0])
            flops = 2 * (inputs[0].numel() if args[6] else output.numel()) * each
            self._tally.add(name, "convolution", shape, flops, elements)
        elif packet is aten.embedding:
            self._tally.add(name, "gather", shape, 0, 2 * output.numel())
        else:
            kind: OperationKind = "reduction" if any(part in name for part in _REDUCTIONS) else "elementwise"
            self._tally.add(name, kind, shape, 0, elements)


def attention_flops(heads: int, queries: int, keys: int, width: int, causal: bool) -> float:
    """Two products over the pairs that are not masked; a causal mask leaves the lower triangle."""
    pairs = queries * (queries + 1) / 2 if causal and queries == keys else queries * keys
    return 4 * heads * pairs * width


class _Attention(TorchFunctionMode):
    """Takes scaled_dot_product_attention as one operation, which on shapes alone would fall apart into products."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally
        self.kept = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._record(*args, **(kwargs or {}))

    def _record(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
        is_causal = named.get("is_causal", rest[2] if len(rest) > 2 else False)
        shape = (*query.shape[:-1], value.shape[-1])
        flops = attention_flops(prod(query.shape[:-2]), query.shape[-2], key.shape[-2], query.shape[-1], is_causal)
        moved = query.numel() + key.numel() + value.numel() + prod(shape)
        self._tally.add("attention", "attention", shape, flops, moved)
        self.kept += moved + prod(query.shape[:-1])
        return torch.empty(shape, dtype=query.dtype, device=query.device, requires_grad=query.requires_grad)


def trace(module: nn.Module, call: Callable[..., Any], *inputs: Tensor) -> tuple[tuple[Operation, ...], float]:
    """The operations of `call(module, *inputs)`, and the elements that its backward pass would need kept.

    Nothing is computed: parameters, buffers and `inputs` are taken by their shapes alone.
    """
    tally = Tally()
    kept: dict[int, tuple[int, Tensor]] = {}
    bare = {
        name: tensor.to("meta")
        for name, tensor in (*module.named_parameters(remove_duplicate=True), *module.named_buffers())
    }
    for name, parameter in module.named_parameters():
        bare[name].requires_grad_(parameter.requires_grad)
    addresses = {tensor.untyped_storage()._cdata for tensor in bare.values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in addresses:
            kept[storage._cdata] = (tensor.numel(), tensor)
        return tensor

    attention = _Attention(tally)
    with (
        torch.device("meta"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        _Operations(tally),
        attention,
    ):
        torch.func.functional_call(_Called(module, call), {f"inner.{k}": v for k, v in bare.items()}, inputs)
    return tally.operations(), sum(count for count, _ in kept.values()) + attention.kept


class _Called(nn.Module):
    def __init__(self, inner: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = inner
        self._call = call

    def forward(self, *inputs: Tensor) -> Any:
        return self._call(self.inner, *inputs)
