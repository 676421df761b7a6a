"""What data-parallel ranks tell each other: gradients, sums, and when each was ready.

World size 1 is `Alone`, which exchanges nothing. `Ranks` is torch's DDP over gloo; two things differ from its defaults.
Gradients are summed, not averaged: the step divides by the units of all ranks. Buckets are never rebuilt after the
first step (what `find_unused_parameters` brings with it), so that a resumed run adds the same numbers in the same
order; parameters that a task does not touch are allowed, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fullbore.record.ledger import State
from fullbore.record.span import Recorder


class Exchange(Protocol):
    rank: int
    world_size: int

    def wrap(self, loss: nn.Module) -> nn.Module:
        """`loss` (a module whose forward gives a summed loss) with its gradients exchanged after each backward."""

    def held(self) -> AbstractContextManager[None]:
        """Backward passes inside only accumulate."""

    def totals(self, values: list[float]) -> list[float]:
        """Sums over the ranks, once a step, after its last backward pass and inside its state."""

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the ranks by key, added in rank order; a rank may lack keys."""

    def agree(self, value: int) -> int:
        """Rank 0's value, on every rank; all ranks have come this far."""


class Alone:
    rank = 0
    world_size = 1

    def wrap(self, loss: nn.Module) -> nn.Module:
        return loss

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def totals(self, values: list[float]) -> list[float]:
        return values

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def agree(self, value: int) -> int:
        return value


class Ranks:
    """The ranks of torch's default process group."""

    def __init__(self, recorder: Recorder) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._recorder = recorder
        self._exposed = recorder.state(State.COMMUNICATION)
        self._ready = 0.0
        self._running: list[Tensor] = []

    def wrap(self, loss: nn.Module) -> nn.Module:
        norms = [part for part in loss.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
        self._running = [t for part in norms for t in (part.running_mean, part.running_var) if t is not None]
        self._parallel = nn.parallel.DistributedDataParallel(
            loss, forward_sync_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )
        self._parallel.register_comm_hook(None, lambda _, bucket: self._add_bucket(bucket))
        return self._parallel

    def _add_bucket(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Called in the backward pass, on the main thread, as soon as a bucket's gradients are all there."""
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        if bucket.is_last():
            self._ready = time.perf_counter()
            self._exposed.__enter__()
        future: torch.futures.Future[list[Tensor]] = work.get_future()
        return future.then(lambda done: done.value()[0])

    def held(self) -> AbstractContextManager[None]:
        return self._parallel.no_sync()

    def totals(self, values: list[float]) -> list[float]:
        """With `values` go the running statistics of batch norms, which become the ranks' mean, and when each rank's
        gradients were ready: until the latest was, this rank waited for a straggler. (One machine, one clock.)"""
        ready = [0.0] * self.world_size
        ready[self.rank] = self._ready
        mine = torch.tensor(values + ready, dtype=torch.float64)
        everything = torch.cat([mine, *(t.detach().double().flatten() for t in self._running)])
        dist.all_reduce(everything)
        counts = [len(values), self.world_size, *(t.numel() for t in self._running)]
        totals, stamps, *running = torch.split(everything, counts)
        for statistic, total in zip(self._running, running, strict=True):
            statistic.copy_(total.view_as(statistic) / self.world_size)
        self._recorder.split(State.STRAGGLER, float(stamps.max()) - self._ready)
        self._exposed.__exit__(None, None, None)
        return list(totals.tolist())

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        text = torch.frombuffer(bytearray(json.dumps(dict(values)).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = text
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(texts, padded)
        total: dict[str, float] = {}
        for each, size in zip(texts, sizes, strict=True):
            for key, value in json.loads(each[: int(size)].numpy().tobytes()).items():
                total[key] = total.get(key, 0.0) + value
        return total

    def agree(self, value: int) -> int:
        agreed = torch.tensor([value if self.rank == 0 else 0])
        dist.all_reduce(agreed)
        return int(agreed)
