"""What a run's joules are: what each part of a machine draws in each state of the ledger, times its seconds.

What counters measured is used as it is. What they do not cover is modelled, `P = idle + (busy - idle) * share in use`
(Fan, Weber, Barroso, "Power Provisioning for a Warehouse-sized Computer", ISCA 2007), and told between two ends.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

KILOWATT_HOUR = 3.6e6
"""Joules."""
Source = Literal["measured", "modelled"]


@dataclass(frozen=True)
class Amount:
    """A figure between two ends: the same if it was measured."""

    value: float
    low: float
    high: float

    def __mul__(self, factor: float) -> Amount:
        return Amount(self.value * factor, self.low * factor, self.high * factor)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.value + other.value, self.low + other.low, self.high + other.high)


ZERO = Amount(0.0, 0.0, 0.0)


def exactly(value: float) -> Amount:
    return Amount(value, value, value)


_THREAD = (Amount(0.64, 0.45, 1.90), Amount(3.64, 1.58, 5.97))
"""Watts of a hardware thread's share of a server, idle and busy, at the wall, memory included: servers of Cascade Lake,
between the most frugal (EPYC of the 2nd and 3rd generation) and the hungriest (Haswell) of those with AVX2. Means of
SPECpower_ssj2008 results by processor: github.com/cloud-carbon-footprint/cloud-carbon-coefficients, commit 0b045386,
output/coefficients-gcp-use.csv."""
UNKNOWN = (
    "nobody said what this machine draws: a core of a server draws 0.64 W idle and 3.64 W busy (Cascade Lake), between "
    "0.45 and 1.58 W (EPYC) and 1.90 and 5.97 W (Haswell); energy.idle_watts and energy.busy_watts would tell better"
)


@dataclass(frozen=True)
class Tariff:
    """What energy costs and emits."""

    pue: float = 1.0
    price: float | None = None
    """Of a kilowatt-hour."""
    currency: str = "USD"
    carbon: float | None = None
    """Grams of CO2 of a kilowatt-hour."""


@dataclass(frozen=True)
class Draw:
    """What a part of a machine draws."""

    part: str
    source: Source
    how: str
    """By which counters, or by which assumption."""
    watts: Mapping[str, Amount]
    """By state."""
    otherwise: Amount
    """Watts in any other state."""

    def joules(self, seconds: Mapping[str, float]) -> dict[str, Amount]:
        """By state, of a ledger's `seconds`."""
        return {state: self.watts.get(state, self.otherwise) * spent for state, spent in seconds.items()}


@dataclass(frozen=True)
class Energy:
    """Of a run or of a predicted one. The joules of the states sum to the whole, and so do those of the parts."""

    draws: tuple[Draw, ...]
    seconds: Mapping[str, float]
    """By state of the ledger."""
    tariff: Tariff = Tariff()
    unit: str = ""
    """What `count` counts: "token" or "sample"; none of it: nothing was trained."""
    count: float = 0.0
    training: tuple[str, ...] = ()
    """The states in which they were trained on."""

    def states(self) -> dict[str, Amount]:
        """Joules of the machine by state, without the building's share."""
        return {
            state: sum((draw.joules({state: spent})[state] for draw in self.draws), ZERO)
            for state, spent in self.seconds.items()
        }

    def source(self) -> str:
        """`measured`, `modelled`, or which part is which."""
        if len({draw.source for draw in self.draws}) == 1:
            return self.draws[0].source
        return ", ".join(f"{draw.part} {draw.source}" for draw in self.draws)

    def to_json(self) -> dict[str, Any]:
        """As docs/runs.md tells, and `from_json` reads."""
        states = self.states()
        whole = sum(states.values(), ZERO)
        hours = whole * (self.tariff.pue / KILOWATT_HOUR)
        trained = sum((joules for state, joules in states.items() if state in self.training), ZERO)
        return {
            "source": self.source(),
            "joules": asdict(whole),
            "states": {
                state: {"joules": joules.value, "share": joules.value / whole.value if whole.value else 0.0}
                for state, joules in states.items()
            },
            "kilowatt_hours": asdict(hours),
            "cost": None if self.tariff.price is None else asdict(hours * self.tariff.price),
            "carbon_grams": None if self.tariff.carbon is None else asdict(hours * self.tariff.carbon),
            "tariff": asdict(self.tariff),
            "joules_per_unit": asdict(trained * (1 / self.count)) if self.count else None,
            "unit": self.unit,
            "count": self.count,
            "training": list(self.training),
            "parts": [
                {**asdict(draw), "joules": asdict(sum(draw.joules(self.seconds).values(), ZERO))} for draw in self.draws
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], seconds: Mapping[str, float]) -> Energy:
        """What `to_json` told, of another ledger's seconds."""
        draws = tuple(
            Draw(
                part["part"],
                part["source"],
                part["how"],
                {state: Amount(**watts) for state, watts in part["watts"].items()},
                Amount(**part["otherwise"]),
            )
            for part in value["parts"]
        )
        known = {key: value[key] for key in ("unit", "count")}
        return cls(draws, seconds, Tariff(**value["tariff"]), **known, training=tuple(value["training"]))


def processor(
    busy: Mapping[str, float], cores: int, idle_watts: float | None = None, busy_watts: float | None = None
) -> Draw:
    """What processor and memory draw, modelled. `busy`: cores in use by state; in any other state it is one.

    `idle_watts`, `busy_watts`: of the machine with none and with all of `cores` in use. Between them power is taken to
    be linear; however it bends, it is between them, and these are the ends that are told.
    """
    if idle_watts is None or busy_watts is None:
        idle, full, how = _THREAD[0] * cores, _THREAD[1] * cores, UNKNOWN
    else:
        idle, full = exactly(idle_watts), exactly(busy_watts)
        how = f"a straight line from {idle_watts:g} W idle to {busy_watts:g} W busy, which are the ends that are told"

    def watts(used: float) -> Amount:
        share = min(1.0, max(0.0, used / cores))
        found = idle * (1 - share) + full * share
        return found if idle_watts is None or busy_watts is None else replace(found, low=idle.value, high=full.value)

    return Draw("processor", "modelled", how, {state: watts(used) for state, used in busy.items()}, watts(1.0))


def metered(part: str, how: str, watts: Mapping[str, float], seconds: Mapping[str, float]) -> Draw:
    """What counters measured, as mean `watts` by state; states they did not see are taken to draw their mean."""
    weights = {state: seconds.get(state, 0.0) for state in watts}
    total = sum(weights.values())
    mean = sum(watts[state] * weight for state, weight in weights.items()) / total if total else _plain(watts.values())
    return Draw(part, "measured", how, {state: exactly(value) for state, value in watts.items()}, exactly(mean))


def _plain(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


@dataclass(frozen=True)
class Accelerator:
    """What an accelerator draws, as `accelerator_power.csv` says."""

    limit_w: float
    idle_w: float
    busy_w: float
    kept: float
    limit_error: float
    linear_error: float

    def watts(self, utilisation: float, limit: float | None = None) -> Amount:
        """Mean watts at a share `utilisation` of the most it can do, under a power `limit` in watts; modelled, for
        accelerators that one does not have: where there is one, NVML measures. Between the ends of the median error of
        the straight line and of the limit together."""
        share = min(1.0, max(0.0, utilisation))
        free = self.idle_w + (self.busy_w - self.idle_w) * share
        found = min(free, self.kept * limit) if limit is not None else free
        error = self.linear_error + self.limit_error
        return Amount(found, found * (1 - error), found * (1 + error))


@cache
def accelerators() -> Mapping[str, Accelerator]:
    """By name, those whose power was published."""
    text = (files(__package__) / "accelerator_power.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row.pop("accelerator"): Accelerator(**{key: float(value) for key, value in row.items()}) for row in rows}
