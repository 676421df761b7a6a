"""One process working on one run: its folder, its recorder, who is told what, and its stages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from fullbore.base.errors import InputError
from fullbore.base.files import link_tree, remove_drafts
from fullbore.base.paths import stage_cache
from fullbore.base.units import format_seconds
from fullbore.base.version import VERSION
from fullbore.flow.interrupt import Interrupts
from fullbore.record import artifact
from fullbore.record.artifact import Artifact
from fullbore.record.ledger import State
from fullbore.record.progress import Progress
from fullbore.record.run import RunFolder
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.plan import Choice

_VERIFY_BYTES = 1 << 30


@dataclass
class Session:
    run: RunFolder
    job: Job
    recorder: Recorder
    progress: Progress
    notify: Callable[[str], None]
    interrupts: Interrupts
    stages: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a stage; what the block puts into the dict is kept with it (`cached`, `artifact`, `detail`)."""
        self.recorder.event("stage", stage=name, status="begin")
        facts: dict[str, Any] = {"stage": name, "cached": False}
        began = time.monotonic()
        yield facts
        facts["seconds"] = time.monotonic() - began
        self.stages.append(facts)
        self.recorder.event("stage", status="end", **facts)
        detail = f": {facts['detail']}" if facts.get("detail") else ""
        source = "cached" if facts["cached"] else format_seconds(facts["seconds"])
        self.notify(f"{name} ({source}){detail}")

    def seconds(self, stage: str) -> float:
        """How long a stage of this session took; 0 if it was not run."""
        return sum(float(facts["seconds"]) for facts in self.stages if facts["stage"] == stage)

    def choose(self, choice: Choice) -> None:
        """Keep an automatic choice and print it once."""
        self.recorder.event("choice", **asdict(choice))
        self.notify(str(choice))

    def message(self, level: str, text: str) -> None:
        self.recorder.event("message", level=level, text=text)
        self.notify(text)

    def cached(
        self,
        kind: str,
        state: State,
        facts: dict[str, Any],
        key: Callable[[], str],
        build: Callable[[Path], Artifact],
    ) -> Artifact:
        """The artifact of `kind` for this run: from the run itself, from the cache beside the runs, or built now.

        `key`: the cache's name for it, not asked for if the run has it. A kept artifact whose bytes were changed is
        named and built again. Small ones are read whole to see that.
        """
        place = self.run.paths.artifact(kind)
        with self.recorder.state(state):
            remove_drafts(place.parent)
            held = self._intact(place, kind)
            facts["cached"] = held is not None
            if held is None:
                cache = stage_cache() / f"{kind}-{key()}"
                remove_drafts(cache.parent)
                found = self._intact(cache, kind)
                facts["cached"] = found is not None
                link_tree((found or build(cache)).folder, place)
            facts["artifact"] = str(place)
        return held or artifact.read(place, kind)

    def _intact(self, folder: Path, kind: str) -> Artifact | None:
        if not folder.exists():
            return None
        try:
            found = artifact.read(folder, kind)
            return artifact.require_intact(found) if found.bytes <= _VERIFY_BYTES else found
        except InputError as error:
            self.message("warning", f"{error.message}; it is built again")
            return None


def content_key(*parts: Any) -> str:
    """A short name for what a stage's result depends on, the version of fullbore included."""
    text = json.dumps([VERSION, *parts], sort_keys=True, default=str)
    return xxhash.xxh3_64(text.encode()).hexdigest()
