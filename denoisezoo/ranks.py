"""Work divided among the processes of a distributed run, and put together again; with one process, nothing happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> tuple[int, int]:
    """(rank, number of processes): (0, 1) outside of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def joined() -> Iterator[int]:
    """Within it, the processes that torchrun has started work together; yields this one's rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group()
        try:
            yield dist.get_rank()
        finally:
            dist.destroy_process_group()
    else:
        yield ranks()[0]


def share(num: int) -> range:
    """Which of `num` pieces of work are this process's: a block, as large as the others' or larger by one."""
    rank, world_size = ranks()
    return range(num * rank // world_size, num * (rank + 1) // world_size)


def gather(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, in the order of their ranks, on every process; n may differ."""
    _, world_size = ranks()
    if world_size == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])
