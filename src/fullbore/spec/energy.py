"""`[energy]`: what electricity costs and emits here, and what this machine draws."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fullbore.spec.section import Nothing, Section


class EnergySection(Section):
    """What electricity costs and emits here, and what this machine draws. Nothing of it is needed: counters are read
    where the machine has them, and what is modelled says so."""

    idle_watts: Annotated[float, Field(ge=0)] | Nothing = None
    """What the machine draws when it does nothing, for where it has no counter; of a shared machine, your share."""
    busy_watts: Annotated[float, Field(gt=0)] | Nothing = None
    """The same with all cores busy that the program may use."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power usage effectiveness: energy of the building over energy of its machines; 1.0 counts the machines alone."""
    price_per_kwh: Annotated[float, Field(ge=0)] | Nothing = None
    """What a kilowatt-hour costs; none: no costs are told."""
    currency: str = "USD"
    """Of that price."""
    carbon_per_kwh: Annotated[float, Field(ge=0)] | Nothing = None
    """Grams of CO2 that a kilowatt-hour emits here; none: none are told."""
