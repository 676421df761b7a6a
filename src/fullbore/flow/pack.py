"""`pack`: any source to shards on disk, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullbore.data import prepare
from fullbore.flow.place import place
from fullbore.flow.prepare import corpus_summary
from fullbore.record.progress import Progress, no_progress
from fullbore.record.span import Recorder
from fullbore.spec.data import DataSection
from fullbore.spec.load import load_section


def pack(source: str, out: str, overrides: Mapping[str, Any], *, progress: Progress = no_progress) -> dict[str, Any]:
    """Read `source`, clean, deduplicate, split, and write Arrow IPC shards with a manifest to `out` (schema 1).

    Overrides are `data.*` settings. Raises UsageError if something else lies at `out`, InputError for bad data.
    """
    section = load_section("data", {"source": source}, overrides)
    assert isinstance(section, DataSection)
    recorder = Recorder()
    made = prepare.prepare(section, None, place(out), recorder=recorder, progress=progress)
    ledger = recorder.ledger()
    return {
        "schema": 1,
        "source": source,
        "folder": str(made.folder),
        "digest": made.digest,
        "bytes": made.bytes,
        "summary": corpus_summary(made),
        "splits": {name: sum(shard["rows"] for shard in shards) for name, shards in made.info["splits"].items()},
        "read": made.info["read"],
        "kept": made.info["kept"],
        "duplicates": made.info["duplicates"],
        "conflicting": made.info["conflicting"],
        "quarantined": made.info["quarantined"],
        "quarantined_count": made.info["quarantined_count"],
        "seconds": ledger.wall,
        "ledger": ledger.to_json(),
    }
