"""The lane: bounds, batches, deadlines, cancellation, poison, drain, and that it sleeps when nothing is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from fullbore.serve.lane import Abandoned, Batch, DeadlinePassed, Draining, Full, Lane, Ticket, TooLarge, next_batch

LONG = 1e9


class Held:
    """An executor that stops before each batch until the test lets it go."""

    def __init__(self, answer: Callable[[Any], Any] = lambda request: request) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.batches: list[list[Any]] = []
        self._answer = answer

    def __call__(self, tickets: Sequence[Ticket[Any]]) -> list[Any]:
        self.batches.append([ticket.request for ticket in tickets])
        self.entered.release()
        self.gate.acquire()
        return [self._answer(ticket.request) for ticket in tickets]

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()


def ticket(request: Any, *, model: str = "m", tokens: int = 1, bytes: int = 1, **rest: Any) -> Ticket[Any]:
    return Ticket(request, model, tokens, bytes, rest.pop("deadline", LONG), **rest)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def lane(held: Held) -> Iterator[Lane[Any]]:
    lane: Lane[Any] = Lane(held, requests=8, tokens=100, bytes=1000, batch_size=4)
    yield lane
    lane.stop()
    held.release(100)
    assert lane.drain(5.0)


def occupy(lane: Lane[Any], held: Held) -> Ticket[Any]:
    """Make the executor busy with one request."""
    first = ticket("first")
    lane.submit(first)
    held.entered.acquire()
    return first


def test_answers_come_to_their_requests(lane: Lane[Any], held: Held) -> None:
    tickets = [ticket(number) for number in range(6)]
    lane.submit_all(tickets)
    held.release(6)
    assert [t.future.result(5) for t in tickets] == list(range(6))


def test_a_batch_takes_what_came_while_the_executor_was_busy(lane: Lane[Any], held: Held) -> None:
    occupy(lane, held)
    tickets = [ticket(number) for number in range(6)]
    for one in tickets:
        lane.submit(one)
    held.release(3)
    assert tickets[-1].future.result(5) == 5
    assert held.batches == [["first"], [0, 1, 2, 3], [4, 5]]


def test_a_batch_is_of_one_model_and_keeps_the_order() -> None:
    queue = [ticket(1, model="a"), ticket(2, model="b"), ticket(3, model="a"), ticket(4, model="a", alone=True)]
    assert [t.request for t in next_batch(queue, 8)] == [1, 3]
    assert [t.request for t in next_batch(queue[1:], 8)] == [2]
    assert [t.request for t in next_batch(queue[3:], 8)] == [4]
    assert [t.request for t in next_batch([ticket(n) for n in range(9)], 3)] == [0, 1, 2]
    assert next_batch([], 8) == []


@pytest.mark.parametrize(
    ("bound", "sizes", "count"), [("requests", {}, 8), ("tokens", {"tokens": 25}, 4), ("bytes", {"bytes": 500}, 2)]
)
def test_each_bound_refuses_at_the_door(
    lane: Lane[Any], held: Held, bound: str, sizes: dict[str, int], count: int
) -> None:
    occupy(lane, held)
    for number in range(count):
        lane.submit(ticket(number, **sizes))
    before = lane.queued()
    with pytest.raises(Full) as refused:
        lane.submit(ticket("one too many", **sizes))
    assert refused.value.bound == bound
    assert refused.value.retry_after > 0
    assert lane.queued() == before


def test_what_can_never_fit_is_told_apart_from_what_may_come_again(lane: Lane[Any]) -> None:
    with pytest.raises(TooLarge) as refused:
        lane.submit(ticket("huge", tokens=101))
    assert str(refused.value) == "101 tokens in one request, the queue holds at most 100"


def test_several_are_taken_together_or_not_at_all(lane: Lane[Any], held: Held) -> None:
    occupy(lane, held)
    lane.submit_all([ticket(number) for number in range(7)])
    with pytest.raises(Full):
        lane.submit_all([ticket("a"), ticket("b")])
    assert lane.queued()["requests"] == 7


def test_retry_after_grows_with_what_is_ahead_once_the_cost_is_known() -> None:
    held, batches = Held(), []
    lane: Lane[Any] = Lane(held, requests=4, tokens=1000, bytes=1000, batch_size=2, on_batch=batches.append)
    known = occupy(lane, held)
    time.sleep(0.05)
    held.release()
    known.future.result(5)
    running = ticket("running")
    lane.submit(running)
    held.entered.acquire()
    lane.submit_all([ticket(number) for number in range(4)])
    waits = []
    for asked in (1, 3, 4):
        with pytest.raises(Full) as refused:
            lane.submit_all([ticket("more") for _ in range(asked)])
        waits.append(refused.value.retry_after)
    assert isinstance(batches[0], Batch) and batches[0].seconds >= 0.05
    assert waits[0] < waits[1] == pytest.approx(waits[2], abs=0.05)
    lane.stop()
    held.release(10)


def test_a_request_whose_time_is_over_is_not_executed(lane: Lane[Any], held: Held) -> None:
    occupy(lane, held)
    late, fine = ticket("late", deadline=time.monotonic() - 1), ticket("fine")
    lane.submit_all([late, fine])
    held.release(2)
    assert fine.future.result(5) == "fine"
    with pytest.raises(DeadlinePassed):
        late.future.result(5)
    assert held.batches == [["first"], ["fine"]]


def test_a_cancelled_request_leaves_its_room_at_once_and_is_not_executed(lane: Lane[Any], held: Held) -> None:
    occupy(lane, held)
    gone, fine = ticket("gone", tokens=100), ticket("fine")
    lane.submit(gone)
    lane.abandon(gone)
    assert lane.queued()["tokens"] == 0
    lane.submit(fine)
    held.release(2)
    assert fine.future.result(5) == "fine"
    assert gone.future.cancelled()
    assert held.batches == [["first"], ["fine"]]


def test_a_future_cancelled_by_its_waiter_does_not_stop_the_lane(lane: Lane[Any], held: Held) -> None:
    occupy(lane, held)
    gone, fine = ticket("gone"), ticket("fine")
    lane.submit_all([gone, fine])
    assert gone.future.cancel()
    held.release(2)
    assert fine.future.result(5) == "fine"
    assert held.batches[-1] == ["fine"]


def test_long_work_learns_that_nobody_waits(lane: Lane[Any], held: Held) -> None:
    running = occupy(lane, held)
    running.check()
    lane.abandon(running)
    with pytest.raises(Abandoned):
        running.check()


@pytest.mark.parametrize("guilty", [{0}, {3}, {1, 6}, set(range(8))])
def test_only_the_guilty_request_of_a_batch_fails(guilty: set[int]) -> None:
    calls = []

    def execute(tickets: Sequence[Ticket[Any]]) -> list[Any]:
        calls.append(len(tickets))
        if guilty & {one.request for one in tickets}:
            raise ValueError("poison")
        return [one.request for one in tickets]

    lane: Lane[Any] = Lane(execute, requests=8, tokens=100, bytes=100, batch_size=8)
    tickets = [ticket(number) for number in range(8)]
    lane.submit_all(tickets)
    for one in tickets:
        if one.request in guilty:
            with pytest.raises(ValueError, match="poison"):
                one.future.result(5)
        else:
            assert one.future.result(5) == one.request
    assert len(calls) <= 1 + 2 * len(guilty) * 3
    assert lane.drain(5.0)


def test_an_answer_may_be_a_failure_and_a_wrong_number_of_answers_is_one() -> None:
    lane: Lane[Any] = Lane(lambda tickets: [KeyError("mine")], requests=8, tokens=9, bytes=9, batch_size=1)
    with pytest.raises(KeyError):
        lane.submit(ticket(1)).result(5)
    assert lane.drain(5.0)
    silent: Lane[Any] = Lane(lambda tickets: [], requests=8, tokens=9, bytes=9, batch_size=2)
    with pytest.raises(RuntimeError, match="0 answers to 1"):
        silent.submit(ticket(1)).result(5)
    assert silent.drain(5.0)


def test_drain_finishes_what_is_there_and_takes_nothing_new(lane: Lane[Any], held: Held) -> None:
    first = occupy(lane, held)
    waiting = ticket("waiting")
    lane.submit(waiting)
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(lane.drain(5.0)))
    thread.start()
    while lane.accepting:
        time.sleep(0.001)
    with pytest.raises(Draining):
        lane.submit(ticket("new"))
    held.release(2)
    thread.join(5)
    assert drained == [True]
    assert (first.future.result(0), waiting.future.result(0)) == ("first", "waiting")


def test_drain_out_of_time_refuses_what_is_left(lane: Lane[Any], held: Held) -> None:
    running = occupy(lane, held)
    waiting = ticket("waiting")
    lane.submit(waiting)
    assert not lane.drain(0.01)
    with pytest.raises(Draining):
        waiting.future.result(0)
    with pytest.raises(Draining):
        running.check()
    held.release()
    assert running.future.result(5) == "first"


def test_an_idle_lane_does_not_wake_up(lane: Lane[Any], held: Held) -> None:
    held.release()
    lane.submit(ticket("only")).result(5)
    before = lane.wakeups
    time.sleep(0.3)
    assert lane.wakeups == before <= 2


def test_many_threads_lose_nothing() -> None:
    answered: list[int] = []
    lane: Lane[Any] = Lane(
        lambda tickets: [one.request for one in tickets], requests=2000, tokens=9999, bytes=9999, batch_size=16
    )

    def work(begin: int) -> None:
        futures = [lane.submit(ticket(number)) for number in range(begin, begin + 200)]
        answered.extend(future.result(10) for future in futures)

    threads = [threading.Thread(target=work, args=(200 * index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answered) == list(range(1600))
    assert lane.queued() == {"requests": 0, "tokens": 0, "bytes": 0}
    assert lane.drain(5.0)
