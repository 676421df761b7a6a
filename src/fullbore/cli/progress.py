"""Progress of long work: whoever works stores its newest numbers, a thread of ours draws them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fullbore.base.colours import DARK
from fullbore.base.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

REDRAWS_PER_SECOND = 4
PLAIN_SECONDS = 30.0
_RATE_SECONDS = 5.0


@dataclass(frozen=True)
class Numbers:
    """The newest that a stage said."""

    done: float
    total: float | None
    unit: str
    detail: str
    limit: str

    @property
    def ended(self) -> bool:
        return self.total is not None and self.done >= self.total

    def amount(self, value: float) -> str:
        return format_bytes(value) if self.unit == "B" else format_count(value)


class StoredProgress:
    """A `record.progress.Progress` that only keeps the newest numbers of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, Numbers] = {}

    def __call__(
        self, stage: str, done: float, total: float | None, unit: str, *, detail: str = "", limit: str = ""
    ) -> None:
        self.stages[stage] = Numbers(done, total, unit, detail, limit)


class Pace:
    """Rates of stages from what they had done some seconds ago, so that a slow start does not weigh on them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, list[tuple[float, float]]] = {}

    def rate(self, stage: str, numbers: Numbers) -> float | None:
        """Units/s over the last seconds; none until there are two readings."""
        now = self._clock()
        seen = self._seen.setdefault(stage, [])
        if not seen or numbers.done != seen[-1][1]:
            seen.append((now, numbers.done))
        while len(seen) > 2 and seen[1][0] < now - _RATE_SECONDS:
            seen.pop(0)
        (since, then), (until, latest) = seen[0], seen[-1]
        return (latest - then) / max(now - since, 1e-9) if until > since else None

    def remaining(self, stage: str, numbers: Numbers) -> float | None:
        """Seconds until the stage is done at its present rate."""
        rate = self.rate(stage, numbers)
        return (numbers.total - numbers.done) / rate if rate and numbers.total is not None else None


@contextmanager
def live(progress: StoredProgress) -> Iterator[Callable[[str], None]]:
    """Draw one region with a line per stage on the terminal; yields what prints a line above it."""
    from rich.console import Console
    from rich.live import Live

    terminal, pace = Console(stderr=True, highlight=False), Pace()

    def above(text: str) -> None:
        terminal.print(text, markup=False, soft_wrap=True)

    region = Live(
        console=terminal,
        get_renderable=lambda: _region(dict(progress.stages), pace),
        refresh_per_second=REDRAWS_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with region:
        yield above


def _region(stages: dict[str, Numbers], pace: Pace) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for _ in range(6):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    blue, green = DARK["forward"], DARK["tokenise"]
    for stage, numbers in stages.items():
        total = numbers.total
        count = numbers.amount(numbers.done) + (f" / {numbers.amount(total)}" if total is not None else "")
        unit = "" if numbers.unit == "B" else numbers.unit
        rate, remaining = pace.rate(stage, numbers), pace.remaining(stage, numbers)
        speed = f"{numbers.amount(rate)} {unit}/s".replace(" /", "/") if rate and not numbers.ended else ""
        state = "done" if numbers.ended else f"{format_seconds(remaining)} left" if remaining is not None else ""
        limit = f"limited by {numbers.limit}" if numbers.limit and not numbers.ended else ""
        drawn = ProgressBar(
            total=total or 1,
            completed=numbers.done if total else 0,
            width=20,
            pulse=total is None,
            complete_style=blue,
            pulse_style=blue,
            finished_style=green,
        )
        said = ", ".join(part for part in (limit, numbers.detail) if part)
        grid.add_row(stage, drawn, f"{count} {unit}".strip(), speed, state, said)
    return grid


@contextmanager
def plain(
    progress: StoredProgress, say: Callable[[str], None], every: float = PLAIN_SECONDS
) -> Iterator[Callable[[str], None]]:
    """Say one `key=value` line per stage at most every `every` seconds, and one when the stage has ended.

    Yields what says a note, after the lines of stages that ended before it.
    """
    over, turn = threading.Event(), threading.Lock()
    pace, told, began = Pace(), {}, time.monotonic()  # type: ignore[var-annotated]

    def look(last: bool) -> None:
        now = time.monotonic()
        with turn:
            tell(last, now)

    def tell(last: bool, now: float) -> None:
        for stage, numbers in list(progress.stages.items()):
            rate = pace.rate(stage, numbers)
            when, what = told.get(stage, (began, None))
            if what is not None and (what.ended or what == numbers):
                continue
            if numbers.ended or last or now - when >= every:
                told[stage] = (now, numbers)
                say(_line(stage, numbers, rate, pace.remaining(stage, numbers)))

    def note(text: str) -> None:
        look(False)
        with turn:
            say(text)

    def watch() -> None:
        while not over.wait(min(1.0, every)):
            look(False)

    thread = threading.Thread(target=watch, name="fullbore-progress", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        over.set()
        thread.join()
        look(True)


def _line(stage: str, numbers: Numbers, rate: float | None, remaining: float | None) -> str:
    fields = {
        "stage": stage,
        "done": f"{numbers.done:g}",
        "total": f"{numbers.total:g}" if numbers.total is not None else "",
        "unit": numbers.unit,
        "rate": f"{rate:.4g}" if rate else "",
        "eta_seconds": f"{remaining:.0f}" if remaining is not None and not numbers.ended else "",
        "limit": numbers.limit,
        "detail": numbers.detail,
    }
    return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', "'") + '"' if " " in value or '"' in value else value
