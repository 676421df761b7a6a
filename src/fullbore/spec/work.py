"""Work: a model's operations as plain data, all that cost models ever see of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

OperationKind = Literal["matmul", "convolution", "attention", "elementwise", "reduction", "gather"]


@dataclass(frozen=True)
class Operation:
    """One operation of the forward pass of one sample."""

    name: str
    kind: OperationKind
    shape: tuple[int, ...]
    """matmul: (m, n, k) for one sample; others: the output's shape."""
    flops: float
    """Forward only, one call; a multiply-add counts two."""
    elements: float
    """Elements read and written, one call; times the dtype's size it is the bytes moved."""
    count: int = 1
    """How often the forward pass calls it (layers)."""


@dataclass(frozen=True)
class Work:
    """The forward pass of one sample, and what training keeps of it."""

    parameters: int
    operations: tuple[Operation, ...]
    activation_elements: float
    """Elements kept for the backward pass of one sample."""
    units: Literal["tokens", "samples"]
    units_per_sample: int

    @property
    def forward_flops(self) -> float:
        """FLOPs of one sample's forward pass."""
        return sum(operation.flops * operation.count for operation in self.operations)

    @property
    def training_flops(self) -> float:
        """FLOPs of one sample's forward and backward pass: gradients of inputs and of weights cost one forward each."""
        return 3 * self.forward_flops

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Work:
        fields = {key: item for key, item in value.items() if key != "schema"}
        fields["operations"] = tuple(
            Operation(**{**operation, "shape": tuple(operation["shape"])}) for operation in fields["operations"]
        )
        return cls(**fields)
