"""A rank's membership in the process group: torch.distributed over gloo, described by the environment.

`RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` say who is who, as with torchrun. If `MASTER_LISTEN_FD` is set,
rank 0 takes over that listening socket, so that nobody else can have taken the port meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from fullbore.engine.local import RankLost

TIMEOUT_SECONDS = 120.0
"""How long a rank waits for another one that is alive; a dead one is noticed at once."""


@contextmanager
def member(world_size: int, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Be a member of the group inside; a world of one needs none.

    Raises RankLost where another rank died or did not answer in time, inside the block too.
    """
    if world_size == 1:
        yield
        return
    rank = int(os.environ["RANK"])
    try:
        _join(rank, world_size, timedelta(seconds=timeout_seconds))
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            reason = str(error).strip().splitlines()[0]
            raise RankLost(f"rank {rank} lost another rank: {reason}", hint="resume the run") from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(rank: int, world_size: int, timeout: timedelta) -> None:
    listening = os.environ.get("MASTER_LISTEN_FD") if rank == 0 else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=int(listening) if listening is not None else None,
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
