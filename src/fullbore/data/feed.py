"""The Feed: batches of a split for ever, prepared beside the main thread, whose position is a few integers.

Step s of the run covers the positions [s·G, (s+1)·G) of the order plane, G the global batch. Rank r executes the r-th
contiguous part (the parts of numpy.array_split: sizes differ by at most one). Ranks and threads own nothing, so the
concatenated batches of a step are the same for any number of both, and any number of them goes on from any step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullbore.base.errors import InputError
from fullbore.data.columns import Columns
from fullbore.data.order import Order
from fullbore.data.shards import Shards

Batch = dict[str, Any]
Ids = NDArray[np.int64]
Collate = Callable[[Columns, Ids], Batch]
"""Samples, and where each stands: its position in the endless stream of a Feed, its row in a split that `once` reads.
What a batch draws at random goes by these places: in every epoch anew, and the same again after a resume."""


def part(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """Begin and end of a rank's part of `total`: numpy.array_split's rule."""
    share, rest = divmod(total, world_size)
    begin = rank * share + min(rank, rest)
    return begin, begin + share + (rank < rest)


class Feed:
    """An endless iterator of a rank's batches; a context manager that ends its threads."""

    def __init__(
        self,
        shards: Shards,
        *,
        split: str = "train",
        global_batch_size: int,
        collate: Collate,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 4,
        threads: int = 1,
        on_busy: Callable[[str, float], None] | None = None,
    ) -> None:
        """`prefetch`: batches made ahead (0 makes each when it is asked for); `threads`: how many make them.

        `collate` must depend on its arguments alone. `on_busy` is told the seconds that making batches took: `feed`
        by the clock, `feed cpu` of a core. Raises InputError when the split is empty or the batch cannot be divided.
        """
        if not 0 <= rank < world_size <= global_batch_size:
            raise InputError(
                f"global batch of {global_batch_size} for rank {rank} of {world_size}",
                hint="train.global_batch_size must be at least train.world_size",
            )
        self.rows = shards.rows(split)
        if not self.rows:
            raise InputError(
                f"{shards.artifact.folder}: split {split!r} is empty", hint="give it more data or a larger share of it"
            )
        self.last_ids: Ids = np.empty(0, np.int64)
        self._shards, self._split, self._collate = shards, split, collate
        self._order = Order(seed, self.rows)
        self._global_batch_size = global_batch_size
        self._part = part(global_batch_size, rank, world_size)
        self._step = 0
        self._prefetch, self._on_busy = prefetch, on_busy
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="fullbore-feed") if prefetch else None
        self._ahead: deque[Future[tuple[Batch, Ids]]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._pool is None:
            batch, ids = self._make(self._step)
        else:
            while len(self._ahead) <= self._prefetch:
                self._ahead.append(self._pool.submit(self._make, self._step + len(self._ahead)))
            batch, ids = self._ahead[0].result()
            self._ahead.popleft()
        self._step += 1
        self.last_ids = ids
        return batch

    def _make(self, step: int) -> tuple[Batch, Ids]:
        clock, cpu = time.perf_counter(), time.thread_time()
        first = step * self._global_batch_size
        positions = np.arange(first + self._part[0], first + self._part[1])
        ids = self._order.ids(positions)
        batch = self._collate(self._shards.gather(self._split, ids), positions)
        if self._on_busy is not None:
            self._on_busy("feed", time.perf_counter() - clock)
            self._on_busy("feed cpu", time.thread_time() - cpu)
        return batch, ids

    def _key(self) -> dict[str, Any]:
        return {
            "global_batch_size": self._global_batch_size,
            "seed": self._order.seed,
            "rows": self.rows,
            "digest": self._shards.digest,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the feed stands: the step whose batch comes next, and what that step's meaning depends on."""
        return {"step": self._step, **self._key()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, whatever rank, world size or threads wrote it. Raises InputError if the data differ."""
        for key, value in self._key().items():
            if state.get(key) != value:
                raise InputError(
                    f"cannot go on in other data: {key} was {state.get(key)}, now it is {value}",
                    hint="resume with the job and the data that the run began with",
                )
        self._drop()
        self._step = int(state["step"])

    def _drop(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def close(self) -> None:
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def once(
    shards: Shards,
    split: str,
    batch_size: int,
    collate: Collate,
    *,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> Iterator[Batch]:
    """A rank's part of a split, every row once and in order, the last batch short.

    `limit`: that many rows of the whole split instead, drawn without repetition and always the same ones.
    """
    rows = shards.rows(split)
    chosen: Ids | None = None
    if limit is not None and limit < rows:
        chosen = np.sort(Order(0, rows).ids(np.arange(limit)))
        rows = limit
    begin, end = part(rows, rank, world_size)
    for first in range(begin, end, batch_size):
        last = min(first + batch_size, end)
        ids = np.arange(first, last) if chosen is None else chosen[first:last]
        yield collate(shards.gather(split, ids), ids)
