"""Seconds of forward and backward: what they launch, each kernel at its measured curve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fullbore.spec.curves import Curve, Curves
from fullbore.spec.work import Launch, Launches

_LIKE = {
    **dict.fromkeys(("cos", "sin", "log", "pow", "rsqrt", "sqrt", "sigmoid", "erf"), "exp"),
    **dict.fromkeys(("mean", "var", "norm", "max", "min", "argmax", "sum"), "reduce"),
    **dict.fromkeys(("_safe_softmax",), "_softmax"),
    "_log_softmax_backward_data": "_softmax_backward_data",
    "tanh_backward": "gelu_backward",
    **dict.fromkeys(("ne", "gt", "lt", "ge", "le"), "eq"),
    **dict.fromkeys(("index", "index_select", "gather"), "embedding"),
}
"""Operators that have no curve of their own, and the one they resemble; all others are `map`."""


_CHANNELS = 16
"""Kernels of convolutions compute so many channels at once."""


def _blocks(channels: float) -> float:
    return channels if channels <= _CHANNELS / 4 else math.ceil(channels / _CHANNELS) * _CHANNELS


@dataclass(frozen=True)
class Seconds:
    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.forward * times, self.backward * times)


@dataclass(frozen=True)
class Device:
    """What one rank of `ranks`, each with `threads` threads, has of a device."""

    curves: Curves
    precision: str
    threads: int = 1
    ranks: int = 1

    def kernel(self, name: str, dtype: str, sizes: tuple[float, ...], moved: float) -> float:
        """Seconds of one call; ranks that work at the same time share what the device has."""
        alone = self._of(self.threads, name, dtype, sizes, moved)
        if self.ranks == 1:
            return alone
        return max(alone, self.ranks * self._of(self.threads * self.ranks, name, dtype, sizes, moved))

    def _of(self, threads: int, name: str, dtype: str, sizes: tuple[float, ...], moved: float) -> float:
        curve = self._curve(name, dtype, threads) or self._curve(_LIKE.get(name, "map"), dtype, threads)
        if curve is None or len(curve.axes) != max(1, len(sizes)):
            curve, sizes = self._curve("map", dtype, threads), ()
        assert curve is not None, "every device has a curve of what goes over elements"
        if sizes and name.startswith("convolution"):
            sizes = (sizes[0], *(_blocks(channels) for channels in sizes[1:3]), sizes[3])
        return curve.at([max(1.0, size) for size in sizes or (moved,)])

    def _curve(self, name: str, dtype: str, threads: int) -> Curve | None:
        """In another dtype if this one was not measured, on the most threads up to `threads`."""
        known = self.curves.kernels
        for kind in (dtype, "mixed", "fp32", "bf16"):
            for count in range(threads, 0, -1):
                if (key := f"{name}/{kind}/{count}") in known:
                    return known[key]
        return None

    def launching(self, backward: bool) -> float:
        return _up_to(self.curves.launching, f"{'backward' if backward else 'forward'}/{self.precision}", self.threads)

    def sustained(self, name: str) -> float:
        kind = "convolution/" if name.startswith("convolution") else ""
        return _up_to(self.curves.sustained, kind + self.precision, self.threads) or 1.0


def _up_to(values: Mapping[str, float], name: str, threads: int) -> float:
    return next((values[key] for n in range(threads, 0, -1) if (key := f"{name}/{n}") in values), 0.0)


def seconds(launches: Launches, device: Device, samples: int) -> Seconds:
    """Of forward and backward of one micro-batch of `samples`."""
    total = _sum(launches.body, device, samples)
    rows = launches.rows * samples
    if not rows:
        return total
    chunks, rest = divmod(rows, launches.chunk_rows)
    total += _sum(launches.head, device, rows)
    if chunks:
        total += _sum(launches.chunk, device, launches.chunk_rows) * chunks
    return total + _sum(launches.chunk, device, rest) if rest else total


def narrowing(launches: Launches, device: Device) -> float:
    """Seconds, within those of a micro-batch, of casts of weights, which are made once a step."""
    casts = [x for x in launches.body if x.name == "cast" and not x.backward and not x.bytes.each]
    return _sum(casts, device, 0.0).forward


def _sum(launches: Iterable[Launch], device: Device, samples: float) -> Seconds:
    forward = backward = 0.0
    for launch in launches:
        each = device.launching(launch.backward)
        if launch.name != "view":
            sizes = tuple(size.of(samples) for size in launch.sizes)
            each += device.sustained(launch.name) * device.kernel(
                launch.name, launch.dtype, sizes, launch.bytes.of(samples)
            )
        if launch.backward:
            backward += launch.count * each
        else:
            forward += launch.count * each
    return Seconds(forward, backward)
