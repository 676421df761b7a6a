"""What a machine is and what was measured of it: the ceilings that everything else is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
    notes: tuple[str, ...] = field(default=())

    def peak(self, dtype: str, threads: int) -> float:
        """FLOP/s of `dtype` at the nearest measured thread count not above `threads` (or the lowest measured)."""
        by_threads = self.matmul_flops[dtype]
        fitting = [count for count in by_threads if count <= threads]
        return by_threads[max(fitting) if fitting else min(by_threads)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ceilings:
        rates = {
            dtype: {int(threads): rate for threads, rate in by_threads.items()}
            for dtype, by_threads in value["matmul_flops"].items()
        }
        return cls(**{**value, "matmul_flops": rates, "notes": tuple(value["notes"])})
