"""Work: a model's operations as plain data, all that cost models ever see of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
class Amount:
    """A quantity that grows with the samples (or rows) that are worked on at once."""

    fixed: float
    each: float

    def of(self, samples: float) -> float:
        return self.fixed + self.each * samples


@dataclass(frozen=True)
class Launch:
    """A kernel that a training step starts."""

    name: str
    """`product.NT` and the like, or the operator's own in torch.ops.aten; what touches no element is a `view`."""
    dtype: str
    """Of what it reads: "fp32", "bf16", or "mixed"."""
    backward: bool
    sizes: tuple[Amount, ...]
    """What its time depends on, where bytes do not say it: batch, m, n, k of a product, for example."""
    bytes: Amount
    """Read and written."""
    count: int = 1


@dataclass(frozen=True)
class Launches:
    """What forward and backward of one micro-batch launch, and keep, in one precision."""

    body: tuple[Launch, ...]
    """Amounts are by samples."""
    head: tuple[Launch, ...] = ()
    """Of the loss of a language model, once; amounts are by rows."""
    chunk: tuple[Launch, ...] = ()
    """Once for each chunk of its rows; amounts are by rows of the chunk."""
    chunk_rows: int = 1
    rows: float = 0.0
    """Rows of the loss for each sample."""
    peaks: tuple[Amount, ...] = ()
    """Bytes that live at once beside the weights: the largest is the peak, which one depends on the samples."""
    held: Amount = Amount(0.0, 0.0)
    """Bytes that live when the loss of a language model begins."""
    head_peaks: tuple[Amount, ...] = ()
    """Bytes that live at once beside those, by rows of a chunk."""

    def activation_bytes(self, samples: float) -> float:
        """Most bytes that live at once, of what grows with the samples: neither weights nor their gradients."""
        rows = min(self.chunk_rows, self.rows * samples)
        head = self.held.each * samples + max((peak.each * rows for peak in self.head_peaks), default=0.0)
        return max([head, *(peak.each * samples for peak in self.peaks)])


@dataclass(frozen=True)
class Work:
    """The forward pass of one sample, and what training keeps of it."""

    parameters: int
    operations: tuple[Operation, ...]
    activation_elements: float
    """Elements kept for the backward pass of one sample."""
    units: Literal["tokens", "samples"]
    units_per_sample: int
    launches: Mapping[str, Launches] = field(default_factory=dict)
    """By precision, and by `<precision>+recompute` where blocks of the network can compute their activations again."""
    weights: tuple[tuple[int, ...], ...] = ()
    """Shapes of the trained parameters."""
    matrices: tuple[tuple[int, ...], ...] = ()
    """Those of them that are matrices and no embeddings."""
    library_bytes: float = 0.0
    """Memory that the library of the network's architecture takes."""

    @property
    def forward_flops(self) -> float:
        """FLOPs of one sample's forward pass."""
        return sum(operation.flops * operation.count for operation in self.operations)

    @property
    def training_flops(self) -> float:
        """FLOPs of one sample's forward and backward pass: gradients of inputs and of weights cost one forward each."""
        return 3 * self.forward_flops

    def to_json(self) -> dict[str, Any]:
        return {"schema": 2, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Work:
        fields = {key: item for key, item in value.items() if key != "schema"}
        fields["operations"] = tuple(
            Operation(**{**operation, "shape": tuple(operation["shape"])}) for operation in fields["operations"]
        )
        fields["launches"] = {name: _launches(item) for name, item in fields.get("launches", {}).items()}
        for key in ("weights", "matrices"):
            fields[key] = tuple(tuple(shape) for shape in fields.get(key, ()))
        return cls(**fields)


def _launches(value: dict[str, Any]) -> Launches:
    parts = {name: tuple(_launch(item) for item in value[name]) for name in ("body", "head", "chunk")}
    peaks = {name: tuple(Amount(**item) for item in value[name]) for name in ("peaks", "head_peaks")}
    return Launches(**{**value, **parts, **peaks, "held": Amount(**value["held"])})


def _launch(value: dict[str, Any]) -> Launch:
    sizes = tuple(Amount(**item) for item in value["sizes"])
    return Launch(**{**value, "sizes": sizes, "bytes": Amount(**value["bytes"])})
