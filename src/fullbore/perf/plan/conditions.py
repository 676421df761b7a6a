"""What was otherwise in a run than when the machine's ceilings were measured: another host, clock, or neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fullbore.perf.plan.choose import CROWDED
from fullbore.perf.plan.facts import TRAINING, Facts

_DRIFT = 0.1
"""Relative change of the cores' frequency that is worth a note."""


def notes(facts: Facts, events: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line each, from what a run recorded of its machine (`condition` events) and of its neighbours."""
    seen = [event for event in events if event["kind"] == "condition"]
    ceilings, found = facts.ceilings, list[str]()
    hosts = list(dict.fromkeys(str(event["fingerprint"]) for event in seen if event.get("fingerprint")))
    if len(hosts) > 1:
        found.append(
            f"it was resumed on another machine ({hosts[0]}, then {hosts[-1]}): its plan and its "
            "predictions are of the first"
        )
    elif ceilings is not None and hosts and ceilings.fingerprint not in hosts:
        found.append(
            f"its ceilings are of another machine ({ceilings.fingerprint}) than it ran on ({hosts[0]}): "
            "shares of peaks and what-ifs go by the wrong rates; measure with fullbore doctor --refresh"
        )
    clocks = [float(event["megahertz"]) for event in seen if event.get("megahertz")]
    before = (ceilings.condition or {}).get("megahertz") if ceilings is not None else None
    every = [*([float(before)] if before else []), *clocks]
    if every and max(every) > (1 + _DRIFT) * min(every):
        when = "when its ceilings were measured" if before else "at first"
        found.append(
            f"the cores ran at {every[0]:.0f} MHz {when}, {min(every[1:]):.0f} to {max(every[1:]):.0f} MHz in the run: "
            "its steps are compared with other ceilings than they had"
        )
    if ceilings is not None and ceilings.notes:
        found.append(f"its ceilings are too low, perhaps: {'; '.join(ceilings.notes)}")
    others = facts.used(TRAINING).cpu_others
    if others > CROWDED and not (ceilings is not None and ceilings.notes):
        found.append(
            f"other processes used {others:.1f} of {facts.cores} cores while it trained, "
            "and none when its ceilings were measured"
        )
    return found
