"""Sizes, durations, counts, shares and budgets as people write and read them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SECONDS = {
    "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_BUDGET_UNITS = {
    "step": "steps", "steps": "steps", "token": "tokens", "tokens": "tokens",
    "sample": "samples", "samples": "samples", "epoch": "epochs", "epochs": "epochs",
}  # fmt: skip
_NUMBER = re.compile(r"\s*([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([a-zA-Z%]*)\s*", re.IGNORECASE)
_ROUNDS_UP = 0.9995  # of the next unit: what three figures cannot tell from it

BudgetUnit = Literal["seconds", "steps", "tokens", "samples", "epochs"]


def _split(text: str, expected: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"found {text!r}, expected {expected}")
    return float(match[1].replace("_", "")), match[2].lower()


def parse_bytes(text: str | int) -> int:
    """Bytes from `"64MB"` (10^6), `"64MiB"` (2^20) or a plain integer. Raises ValueError."""
    if isinstance(text, int):
        return text
    expected = 'a size such as "64MiB" or "2GB"'
    number, unit = _split(text, expected)
    if unit not in _BYTES or not math.isfinite(number * _BYTES[unit]):
        raise ValueError(f"found {text!r}, expected {expected}")
    return round(number * _BYTES[unit])


def parse_seconds(text: str | float) -> float:
    """Seconds from `"90s"`, `"3min"`, `"1.5h"`, `"200ms"`, `"1h30m"` or a plain number. Raises ValueError."""
    if isinstance(text, int | float):
        return float(text)
    expected = 'a duration such as "90s", "3min" or "1h30m"'
    parts = re.findall(r"[0-9][0-9_.]*\s*[a-zA-Z]+", text)
    if not parts or "".join(parts).replace(" ", "") != text.replace(" ", ""):
        raise ValueError(f"found {text!r}, expected {expected}")
    total = 0.0
    for part in parts:
        number, unit = _split(part, expected)
        if unit not in _SECONDS:
            raise ValueError(f"found {text!r}, expected {expected}")
        total += number * _SECONDS[unit]
    if not math.isfinite(total):
        raise ValueError(f"found {text!r}, expected {expected}")
    return total


def parse_share(text: str | float) -> float:
    """A share in [0, 1] from `"0.5%"` or `0.005`. Raises ValueError."""
    if isinstance(text, str):
        number, unit = _split(text, 'a share such as "5%" or 0.05')
        value = number / 100 if unit == "%" else number
        if unit not in ("%", ""):
            raise ValueError(f'found {text!r}, expected a share such as "5%" or 0.05')
    else:
        value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"found {text!r}, expected a share between 0 and 1 (or 0% and 100%)")
    return value


def format_flops(rate: float) -> str:
    """`23.3 GFLOP/s`."""
    unit, size = next(((u, s) for u, s in (("P", 1e15), ("T", 1e12), ("G", 1e9)) if rate >= s), ("M", 1e6))
    return f"{rate / size:.3g} {unit}FLOP/s"


def format_of(share: float, whole: float, unit: str) -> str:
    """`219 GFLOP/s of 948 GFLOP/s`, `8.33 GB/s of 34.6 GB/s`, `1.8 of 2 cores`."""
    match unit:
        case "FLOP/s":
            return f"{format_flops(share * whole)} of {format_flops(whole)}"
        case "B/s":
            return f"{format_bytes(share * whole)}/s of {format_bytes(whole)}/s"
    return f"{share * whole:.2g} of {whole:.2g} {unit}"


@dataclass(frozen=True)
class Budget:
    """How long to train: an amount of seconds, steps, tokens, samples or epochs."""

    amount: float
    unit: BudgetUnit

    def __str__(self) -> str:
        """As `parse_budget` reads it back, exactly: `90 s`, `200 steps`, `1.5 epochs`."""
        amount = format(Decimal(repr(self.amount)).normalize(), "f")
        return f"{amount} {'s' if self.unit == 'seconds' else self.unit}"


def parse_budget(text: str) -> Budget:
    """A Budget from `"90s"`, `"200 steps"`, `"3 epochs"`, `"10M tokens"`. Raises ValueError."""
    expected = 'a budget such as "90s", "200 steps", "10M tokens" or "3 epochs"'
    match = re.fullmatch(r"\s*([0-9][0-9_]*\.?[0-9]*)\s*([kmb]?)\s*([a-z]+)\s*", text.lower())
    if match is not None and match[3] in _BUDGET_UNITS:
        amount = float(match[1].replace("_", "")) * _COUNTS[match[2]]
        unit: BudgetUnit = _BUDGET_UNITS[match[3]]  # type: ignore[assignment]
    else:
        try:
            amount, unit = parse_seconds(text), "seconds"
        except ValueError as error:
            raise ValueError(f"found {text!r}, expected {expected}") from error
    if not 0 < amount < math.inf:
        raise ValueError(f"found {text!r}, expected a budget above zero")
    return Budget(amount, unit)


def _three(value: float) -> str:
    """Three significant figures, without an exponent where the number is large."""
    return f"{value:.3g}" if abs(value) < _ROUNDS_UP * 1e3 else f"{value:.0f}"


def format_bytes(count: float) -> str:
    """`1.5 MB`: decimal units, three significant figures."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= _ROUNDS_UP * size:
            return f"{_three(count / size)} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """`850 µs`, `12.3 ms`, `4.56 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    if seconds < _ROUNDS_UP * 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < _ROUNDS_UP:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_joules(joules: float) -> str:
    """`850 µJ`, `12.3 mJ`, `4.56 J`, `7.89 kJ`, `1.23 MJ`: three significant figures."""
    for unit, size in (("GJ", 1e9), ("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if abs(joules) >= _ROUNDS_UP * size:
            return f"{_three(joules / size)} {unit}"
    return f"{joules * 1e6:.3g} µJ"


def format_count(count: float) -> str:
    """`12.3k`, `4.56M`, `7.89B`: three significant figures."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= _ROUNDS_UP * size:
            return f"{_three(count / size)}{unit}"
    return f"{count:.3g}"


def format_share(share: float) -> str:
    return f"{share * 100:.1f} %"


def plural(count: int, noun: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
