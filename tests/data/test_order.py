import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullbore.base.errors import InputError
from fullbore.data.order import Order


@given(rows=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 2**30))
def test_every_epoch_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    ids = Order(seed, rows).ids(np.arange(epoch * rows, (epoch + 1) * rows))
    assert np.array_equal(np.sort(ids), np.arange(rows))


def test_every_small_size_is_permuted() -> None:
    for rows in range(1, 300):
        assert np.array_equal(np.sort(Order(3, rows).ids(np.arange(rows))), np.arange(rows))


@given(rows=st.integers(1, 10**12), positions=st.lists(st.integers(0, 2**61), min_size=1, max_size=20))
def test_a_position_means_the_same_alone_and_among_others(rows: int, positions: list[int]) -> None:
    order = Order(5, rows)
    together = order.ids(np.array(positions))
    assert together.tolist() == [int(order.ids(np.array([p]))[0]) for p in positions]
    assert together.min() >= 0
    assert together.max() < rows


def test_seeds_and_epochs_differ() -> None:
    rows = 10_000
    orders = [Order(seed, rows).ids(np.arange(e * rows, (e + 1) * rows)) for seed in range(3) for e in range(3)]
    for i, one in enumerate(orders):
        for two in orders[:i]:
            assert (one == two).sum() < 10
            assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


@pytest.mark.parametrize("rows", [4096, 65_537, 10**6])
def test_the_order_looks_random(rows: int) -> None:
    ids = Order(1, rows).ids(np.arange(rows))
    noise = 5 / np.sqrt(rows)
    assert abs(np.abs(np.diff(ids)).mean() / rows - 1 / 3) < noise
    assert abs(np.corrcoef(np.arange(rows), ids)[0, 1]) < noise
    assert abs(np.corrcoef(ids[1:], ids[:-1])[0, 1]) < noise
    grid = np.histogram2d(np.arange(rows), ids, 16)[0]
    expected = rows / 256
    assert ((grid - expected) ** 2 / expected).sum() < 225 + 5 * np.sqrt(2 * 225)
    fixed = (ids == np.arange(rows)).sum()
    assert fixed < 8


def test_few_samples_take_all_their_orders() -> None:
    epochs = 2400
    found = Counter(map(tuple, Order(7, 4).ids(np.arange(epochs * 4)).reshape(epochs, 4).tolist()))
    assert len(found) == 24
    assert min(found.values()) > 50
    assert max(found.values()) < 150


def test_a_hundred_million_rows_take_no_memory() -> None:
    tracemalloc.start()
    ids = Order(0, 10**8).ids(np.arange(64) + 10**15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(ids)) == 64
    assert peak < 100_000


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert Order(0, 10).ids(np.arange(20)).tolist() == FROZEN


def test_nothing_cannot_be_ordered() -> None:
    with pytest.raises(InputError, match="no rows"):
        Order(0, 0)


FROZEN = [4, 5, 9, 7, 8, 6, 0, 1, 2, 3, 4, 2, 8, 7, 3, 6, 9, 5, 0, 1]
