import hashlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import labelled, to_tensors

from fullbore.base.errors import InputError
from fullbore.data.columns import Columns
from fullbore.data.feed import Feed, once, part
from fullbore.data.shards import Shards

STEPS = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return labelled(tmp_path_factory.mktemp("feed") / "corpus", rows=101, shard_bytes=900)


def stream_hash(batches: list[list[torch.Tensor]]) -> str:
    """Over all steps, the global batch put together from the ranks' parts."""
    total = hashlib.sha256()
    for parts in batches:
        total.update(torch.cat(parts).numpy().tobytes())
    return total.hexdigest()


def run(
    shards: Shards, world_size: int, threads: int, prefetch: int, begin: dict | None = None, steps: int = STEPS
) -> str:
    feeds = [
        Feed(
            shards,
            global_batch_size=13,
            collate=to_tensors,
            seed=3,
            rank=rank,
            world_size=world_size,
            threads=threads,
            prefetch=prefetch,
        )
        for rank in range(world_size)
    ]
    if begin is not None:
        for feed in feeds:
            feed.load_state_dict(begin)
    batches = [[next(feed)["features"] for feed in feeds] for _ in range(steps)]
    for feed in feeds:
        feed.close()
    return stream_hash(batches)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 13])
@pytest.mark.parametrize(("threads", "prefetch"), [(1, 0), (1, 4), (7, 8)])
def test_global_batches_do_not_depend_on_ranks_and_threads(
    shards: Shards, world_size: int, threads: int, prefetch: int
) -> None:
    assert run(shards, world_size, threads, prefetch) == run(shards, 1, 1, 0)


@pytest.mark.parametrize("kill_at", [1, 5, 11])
def test_any_number_of_ranks_goes_on_where_another_stopped(shards: Shards, kill_at: int) -> None:
    with Feed(shards, global_batch_size=13, collate=to_tensors, seed=3, rank=1, world_size=2) as feed:
        for _ in range(kill_at):
            next(feed)
        state = json.loads(json.dumps(feed.state_dict()))
    assert len(json.dumps(state)) < 300
    with Feed(shards, global_batch_size=13, collate=to_tensors, seed=3) as whole:
        for _ in range(kill_at):
            next(whole)
        expected = stream_hash([[next(whole)["features"]] for _ in range(STEPS)])
    for world_size, threads in ((1, 1), (2, 3), (5, 1)):
        assert run(shards, world_size, threads, 4, state) == expected


def test_every_epoch_holds_every_sample_once(shards: Shards) -> None:
    with Feed(shards, global_batch_size=13, collate=to_tensors, seed=3) as feed:
        seen = []
        for batch in (next(feed) for _ in range(101)):
            assert batch["label"].tolist() == feed.last_ids.tolist()
            seen += feed.last_ids.tolist()
    epochs = [seen[begin : begin + 101] for begin in range(0, 101 * 13, 101)]
    assert all(sorted(epoch) == list(range(101)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_ids_are_those_of_the_batch_last_returned_however_far_ahead(shards: Shards) -> None:
    with Feed(shards, global_batch_size=4, collate=to_tensors, prefetch=8, threads=3) as feed:
        for _ in range(20):
            assert next(feed)["label"].tolist() == feed.last_ids.tolist()
        assert feed.state_dict()["step"] == 20


def test_a_batch_larger_than_the_data_goes_round(shards: Shards) -> None:
    with Feed(shards, global_batch_size=303, collate=to_tensors) as feed:
        assert np.bincount(next(feed)["label"].numpy()).tolist() == [3] * 101


def test_errors_of_the_threads_reach_the_consumer_and_the_feed_closes(shards: Shards) -> None:
    def collate(columns: Columns, places: np.ndarray) -> dict[str, Any]:
        if 50 in columns["label"]:
            raise ValueError("row 50 is cursed")
        return to_tensors(columns, places)

    before = threading.active_count()
    with (
        Feed(shards, global_batch_size=8, collate=collate, prefetch=4) as feed,
        pytest.raises(ValueError, match="cursed"),
    ):
        for _ in range(20):
            next(feed)
    assert threading.active_count() == before


def test_busy_seconds_are_told(shards: Shards) -> None:
    told: list[tuple[str, float]] = []
    with Feed(
        shards, global_batch_size=8, collate=to_tensors, on_busy=lambda name, seconds: told.append((name, seconds))
    ) as feed:
        for _ in range(5):
            next(feed)
    assert {name for name, _ in told} == {"feed", "feed cpu"}
    assert all(seconds >= 0 for _, seconds in told)


def test_other_data_or_another_batch_are_refused(shards: Shards, tmp_path: Path) -> None:
    with Feed(shards, global_batch_size=13, collate=to_tensors, seed=3) as feed:
        state = feed.state_dict()
    others = [
        (labelled(tmp_path / "other", rows=100), 13, 3, "rows was 101, now it is 100"),
        (shards, 14, 3, "global_batch_size was 13"),
        (shards, 13, 4, "seed was 3"),
    ]
    for data, size, seed, said in others:
        with (
            Feed(data, global_batch_size=size, collate=to_tensors, seed=seed) as feed,
            pytest.raises(InputError, match=said),
        ):
            feed.load_state_dict(state)


def test_impossible_feeds_are_refused(shards: Shards) -> None:
    with pytest.raises(InputError, match="split 'validation' is empty"):
        Feed(shards, split="validation", global_batch_size=1, collate=to_tensors)
    with pytest.raises(InputError, match="global batch of 2 for rank 0 of 3"):
        Feed(shards, global_batch_size=2, collate=to_tensors, world_size=3)


@given(total=st.integers(0, 500), world_size=st.integers(1, 20))
def test_parts_are_numpys(total: int, world_size: int) -> None:
    expected = [len(piece) for piece in np.array_split(np.arange(total), world_size)]
    parts = [part(total, rank, world_size) for rank in range(world_size)]
    assert [end - begin for begin, end in parts] == expected
    assert parts[0][0] == 0
    assert all(one[1] == two[0] for one, two in itertools.pairwise(parts))


@settings(max_examples=30)
@given(world_size=st.integers(1, 7), batch_size=st.integers(1, 40), limit=st.none() | st.integers(1, 150))
def test_once_is_every_row_once(shards: Shards, world_size: int, batch_size: int, limit: int | None) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        batches = list(once(shards, "train", batch_size, to_tensors, rank=rank, world_size=world_size, limit=limit))
        assert all(len(batch["label"]) == batch_size for batch in batches[:-1])
        seen += [label for batch in batches for label in batch["label"].tolist()]
    assert seen == sorted(set(seen))
    assert len(seen) == min(101, limit or 101)
    if limit and limit >= 20:
        assert max(seen) > min(limit, 101) * 0.7


def test_a_batch_knows_where_its_samples_stand(shards: Shards) -> None:
    """In the stream for a feed, whatever rank and thread, so that no place comes twice; in the split for `once`."""

    def places(columns: Columns, places: np.ndarray) -> dict[str, Any]:
        return {"places": places}

    feeds = [
        Feed(shards, global_batch_size=13, collate=places, rank=rank, world_size=3, threads=2) for rank in range(3)
    ]
    stood = [next(feed)["places"] for _ in range(20) for feed in feeds]
    assert np.concatenate(stood).tolist() == list(range(260))
    state = feeds[0].state_dict()
    for feed in feeds:
        feed.close()
    with Feed(shards, global_batch_size=13, collate=places) as feed:
        feed.load_state_dict(state)
        assert next(feed)["places"].tolist() == list(range(260, 273))
    assert [batch["places"].tolist() for batch in once(shards, "train", 99, places)] == [[*range(99)], [99, 100]]
