"""The energy of a run and of what a job would do: what was measured, the rest modelled, and what both cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fullbore.base.units import format_share
from fullbore.perf.model import energy
from fullbore.perf.model.energy import Draw, Energy, Tariff
from fullbore.perf.plan.facts import TRAINING, Facts, Usage
from fullbore.spec.energy import EnergySection
from fullbore.spec.plan import Prediction

_ACCELERATOR = "accelerator"
"""What the names of their counters begin with; all others are of processors and their memory."""


def asked(job: Mapping[str, Any]) -> EnergySection:
    """What a resolved job, as plain data, says of it."""
    return EnergySection.model_validate(job.get("energy") or {})


def of_run(found: Facts, section: EnergySection | None) -> Energy:
    """Of what a run left; `section` none: nothing is known but what was measured."""
    seconds, section = found.ledger.seconds, section or EnergySection()
    processor = _metered("processor", found, seconds) or _modelled(found, section)
    accelerators = _metered("accelerators", found, seconds)
    return Energy(
        draws=(processor,) if accelerators is None else (processor, accelerators),
        seconds=seconds,
        tariff=_tariff(section),
        unit=found.work.units.removesuffix("s") if found.work is not None else "",
        count=found.samples * found.work.units_per_sample if found.work is not None else 0.0,
        training=tuple(map(str, TRAINING)),
    )


def predicted(
    phases: Mapping[str, tuple[float, float]],
    cores: int,
    section: EnergySection | None,
    rate: Prediction | None = None,
    training: str = "",
) -> Energy:
    """Of phases that take so many seconds on so many cores; one of them is `training`, at `rate` units/s."""
    section = section or EnergySection()
    busy = {name: used for name, (_, used) in phases.items()}
    draw = energy.processor(busy, cores, section.idle_watts, section.busy_watts)
    found = Energy((draw,), {name: spent for name, (spent, _) in phases.items()}, _tariff(section))
    if rate is None:
        return found
    unit, count = rate.unit.removesuffix("s/s"), rate.value * phases[training][0]
    return replace(found, unit=unit, count=count, training=(training,))


def _tariff(section: EnergySection) -> Tariff:
    return Tariff(section.pue, section.price_per_kwh, section.currency, section.carbon_per_kwh)


def _metered(part: str, found: Facts, seconds: Mapping[str, float]) -> Draw | None:
    """What counters say of the processor or the accelerators; none if they say nothing."""
    watts: dict[str, float] = {}
    names: set[str] = set()
    for state, usage in found.usage.items():
        counted = {name for name in usage.watts if name.startswith(_ACCELERATOR) == (part == "accelerators")}
        if counted:
            names |= counted
            watts[state] = sum(usage.watts[name] for name in counted)
    if not watts:
        return None
    covered = _covered({state: found.usage[state] for state in watts}, seconds)
    counters = ", ".join(sorted(names))
    how = f"counters of {counters}: all that ran there, ours or not, in {format_share(covered)} of the time; the rest"
    return energy.metered(part, f"{how} at the mean", watts, seconds)


def _covered(usage: Mapping[str, Usage], seconds: Mapping[str, float]) -> float:
    whole = sum(seconds.values())
    seen = sum(min(used.seconds, seconds.get(state, 0.0)) for state, used in usage.items())
    return seen / whole if whole else 0.0


def _modelled(found: Facts, section: EnergySection) -> Draw:
    busy = {state: usage.cpu_self for state, usage in found.usage.items()}
    draw = energy.processor(busy, found.cores, section.idle_watts, section.busy_watts)
    if not found.unreadable:
        return draw
    why = f"{'; '.join(found.unreadable)} (root may: chmod a+r)"
    return Draw(draw.part, draw.source, f"{draw.how}; its counters cannot be read: {why}", draw.watts, draw.otherwise)
