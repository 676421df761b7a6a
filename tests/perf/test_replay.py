"""The verdict over a partition, and what removing a part of it would win."""

from __future__ import annotations

import pytest

from fullbore.perf.plan import replay
from fullbore.perf.plan.replay import Share, finding, what_ifs


def share(rank: str = "rank 0", communication: float = 3.0, **parts: float) -> Share:
    return Share(rank, {name.replace("_", " "): seconds for name, seconds in parts.items()}, {}, communication)


def test_a_gain_is_that_of_the_span_without_the_part() -> None:
    parts = {replay.COMPUTE: 5.0, replay.COMMUNICATION: 3.0, replay.COPIES: 1.0, replay.HOST_WAIT: 1.0}
    gains = [entry.predicted_gain for entry in what_ifs(parts, {})]
    assert gains == pytest.approx([10 / 7 - 1, 10 / 9 - 1, 10 / 9 - 1])


def test_the_largest_part_is_named_with_its_evidence() -> None:
    found = finding([share(compute=4.0, exposed_communication=6.0)])
    assert found.limit == replay.COMMUNICATION and found.share == 0.6
    assert found.sentence == "60.0 % of the time went to communication that no computation hid."
    assert found.evidence == ("next: compute 40.0 %",)


def test_host_wait_for_the_data_loader_is_told_apart() -> None:
    waiting = Share("rank 0", {replay.COMPUTE: 1.0, replay.HOST_WAIT: 9.0}, {replay.LOADER: 8.0, "operators": 1.0}, 0.0)
    found = finding([waiting])
    assert found.sentence.endswith("waiting for the host to launch work, which was in the data loader.")
    assert any("data loader 88.9 %" in line for line in found.evidence)
    assert [entry.change.partition(":")[0] for entry in found.advice] == [
        "launch ahead of the device",
        "feed the program",
    ]


def test_who_waits_least_in_collectives_is_who_the_others_wait_for() -> None:
    ranks = [share("rank 0", communication=3.0, compute=6.0), share("rank 1", communication=1.0, compute=8.0)]
    assert any(line.startswith("rank 1 spent least time in communication") for line in finding(ranks).evidence)
    even = [share("rank 0", compute=6.0), share("rank 1", compute=6.0)]
    assert not any("least time" in line for line in finding(even).evidence)


def test_nothing_is_said_to_be_nothing() -> None:
    found = finding([share(compute=0.0)])
    assert (found.limit, found.share, found.advice) == ("nothing", 0.0, ())
