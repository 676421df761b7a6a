"""What a machine is and what was measured of it: the ceilings that everything else is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fullbore.spec.curves import Curves


@dataclass(frozen=True)
class Machine:
    """What identifies a host; measured ceilings are kept by `fingerprint`."""

    processor: str
    cores: int
    memory_bytes: int
    flags: tuple[str, ...]
    """Instruction sets that matter here: avx2, avx512f, avx512_bf16, avx512_vnni, amx_tile, amx_bf16, amx_int8."""
    torch: str
    python: str
    kernel: str
    fingerprint: str


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of one host. Rates of things that were not measured are absent, never zero."""

    fingerprint: str
    measured_at: str
    matmul_flops: dict[str, dict[int, float]]
    """dtype ("fp32", "bf16", "int8") -> threads -> best sustained FLOP/s of a large matrix product."""
    memory_bandwidth: float
    """Bytes/s read + written by a copy of a buffer far larger than the caches, all threads."""
    disk_write: float
    """Bytes/s written and fsynced in the working directory."""
    disk_read: float
    """Bytes/s read back from there (the page cache if it stayed)."""
    jpeg_decode: float | None = None
    """Pixels/s decoded by one core."""
    tokenise: float | None = None
    """Bytes of text/s tokenised by one core."""
    convolution_flops: dict[str, dict[int, float]] = field(default_factory=dict)
    """As `matmul_flops`, of a 3x3 convolution; other kernels, that may be faster or slower than those of products."""
    disk_device: int | None = None
    """The file system whose rates `disk_write` and `disk_read` are (stat(2), st_dev)."""
    notes: tuple[str, ...] = field(default=())
    condition: dict[str, Any] | None = None
    """Of the machine while it was measured (`perf.measure.condition`); none: nobody recorded it."""

    curves: Curves | None = None
    """Of kernels, if they were measured."""

    @property
    def basis(self) -> str:
        """Under which predictions are kept: the host, and whether its kernels were measured, because that predicts
        otherwise and errs otherwise."""
        return self.fingerprint + ("+kernels" if self.curves is not None else "")

    def peak(self, dtype: str, threads: int) -> float:
        """FLOP/s of `dtype` that were measured at best on up to `threads` cores. Raises KeyError if none were."""
        products, convolutions = self.matmul_flops[dtype], self.convolution_flops.get(dtype)
        return max(_up_to(products, threads), _up_to(convolutions, threads) if convolutions else 0.0)

    def rate(self, kind: str, dtype: str, threads: int) -> float:
        """FLOP/s of a large "convolution" (if it was measured) or product in `dtype` on up to `threads` cores."""
        measured = self.convolution_flops if kind == "convolution" else {}
        return _up_to(measured.get(dtype) or self.matmul_flops[dtype], threads)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ceilings:
        rates = {
            key: {
                dtype: {int(threads): rate for threads, rate in by_threads.items()}
                for dtype, by_threads in value.get(key, {}).items()
            }
            for key in ("matmul_flops", "convolution_flops")
        }
        curves = Curves.from_json(value["curves"]) if value.get("curves") else None
        return cls(**{**value, **rates, "notes": tuple(value["notes"]), "curves": curves})


def _up_to(rates: dict[int, float], threads: int) -> float:
    """The best rate on up to `threads` cores; on fewest, if none were measured so low."""
    return max((rate for count, rate in rates.items() if count <= threads), default=rates[min(rates)])
