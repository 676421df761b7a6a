"""How `accelerator_power.csv` is made from the published table. `python -m tests.perf.fit_power` prints its rows."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

_LIMITED = 0.97


class Row(NamedTuple):
    network: str
    setting: tuple[str, ...]
    limit: float
    seconds: float
    watts: float


def published() -> dict[str, list[Row]]:
    """The rows of each accelerator."""
    lines = Path(__file__).with_name("zeus_power.csv").read_text().splitlines()
    found: dict[str, list[Row]] = defaultdict(list)
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        setting = (row["dataset"], row["network"], row["batch"], row["optimizer"])
        numbers = (float(row[key]) for key in ("limit_w", "epoch_s", "watts"))
        found[row["accelerator"]].append(Row(row["network"], setting, *numbers))
    return dict(found)


def fit(rows: list[Row]) -> dict[str, float]:
    """The columns of one accelerator."""
    free = {row.setting: row for row in sorted(rows, key=lambda row: row.limit)}

    def kept(some: Iterable[Row]) -> float:
        return median(row.watts / row.limit for row in some if row.limit < _LIMITED * free[row.setting].watts)

    networks = {row.network for row in rows}
    off = [
        abs(min(free[row.setting].watts, ratio * row.limit) / row.watts - 1)
        for network in networks
        for ratio in [kept(row for row in rows if row.network != network)]
        for row in rows
        if row.network == network
    ]
    idle = min(row.watts for row in rows)
    sweep = [row for row in free.values() if row.network == "shufflenetv2"]
    fastest, most = min(row.seconds for row in sweep), max(row.watts for row in sweep)
    bent = [abs((idle + (most - idle) * fastest / row.seconds) / row.watts - 1) for row in sweep]
    return {
        "limit_w": max(row.limit for row in rows),
        "idle_w": idle,
        "busy_w": max(row.watts for row in rows),
        "kept": kept(rows),
        "limit_error": median(off),
        "linear_error": median(bent),
    }


if __name__ == "__main__":
    for name, rows in published().items():
        print(",".join([name, *(f"{value:.4g}" for value in fit(rows).values())]))  # noqa: T201
