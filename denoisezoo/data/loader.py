"""Batches straight from a uint8 tensor, without a Python step per image.

Training batch number n is a pure function of (seed, n): pass n // N_b over the data, with N_b whole batches in a pass,
has its own permutation and its own flips. So a run that resumes at batch n sees what the unbroken run would have seen.

The batch of an optimiser step is dealt out into parts, one for each process and each batch over which it accumulates
gradients. Two processes and one process that accumulates twice have the same parts.

On a GPU images stay there where they fit (see `resident`); else a thread makes the next batch, in pinned memory, while
the network trains. Both give the batches that a CPU gets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoisezoo.data.resident import Resident, resident
from denoisezoo.data.store import ImageStore
from denoisezoo.pixels import to_float

Batch = dict[str, Tensor]
"""`image` float32 (B, C, H, W) in [-1, 1]; with labels also `label` int64 (B,)."""


Transform = Callable[[Batch, tuple[int, ...]], Batch]
"""Adds to a training batch what depends on it and on its number: (pass, step, part)."""


def mixed_seed(*key: int) -> int:
    """A seed of 32 bits made of several numbers, which is what torch's CPU generator keeps of one."""
    return int(np.random.SeedSequence(list(key)).generate_state(1)[0])


@functools.cache
def _cuda() -> bool:
    """Asked once: asking takes a quarter of a millisecond."""
    return torch.cuda.is_available()


def collate(pixels: Tensor, flip: Tensor | None, label: Tensor | None) -> Batch:
    """A batch from uint8 pixels (B, C, H, W), mirrored where `flip` (B,) is true.

    Where CUDA is used, the batch is in pinned memory, so that copying it to the device makes nothing wait.
    """
    if flip is not None:
        pixels = torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)
    image = to_float(pixels, pin_memory=_cuda())
    if label is None:
        return {"image": image}
    return {"image": image, "label": label.pin_memory() if _cuda() else label}


class TrainLoader:
    """Endless shuffled training batches; one epoch is one pass without the last, incomplete batch.

    Iterating goes on from `position`, the number of batches given out so far, which a checkpoint keeps through
    `state_dict`.

    Args:
        images: What to draw from.
        labels: Class of each image (N,) int64, or None for batches without labels.
        batch_size: Images of an optimiser step, over all ranks and accumulated batches together.
        flip: Mirror each image with probability one half.
        seed: Seed of order and flips.
        rank: Which process this is.
        world_size: Among how many processes a step is divided.
        accumulate: Into how many batches one after another a step is divided.
        device: Where the network trains.

    Attributes:
        position: Batches given out so far.
        between: Called before each batch; iterating ends where it returns False. None is never.
        transform: What every batch goes through in the end; None is nothing.
        repeat: Only the first batches, this many, are given out, again and again; 0 gives out all.
    """

    between: Callable[[], bool] | None
    transform: Transform | None

    def __init__(
        self,
        images: ImageStore,
        labels: Tensor | None,
        *,
        batch_size: int,
        flip: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.images, self.labels = images, labels
        self.device = torch.device("cpu") if device is None else device
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.position = 0
        self.between = self.transform = None
        self.repeat = 0
        self._pass: tuple[int, Tensor, Tensor] | None = None
        self._resident: Resident | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __len__(self) -> int:
        return len(self.images) // self.batch_size * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        if self._resident is None and self.transform is None and _cuda():  # transforms compute on the CPU
            self._resident = resident(self.images, self.labels, self.device)
        make = self._made_ahead if self._resident is None and self.device.type == "cuda" else self._made
        for _ in range(len(self)):
            if self.between is not None and not self.between():
                return
            self.position += 1
            yield make(self.position - 1)

    def _made(self, n: int) -> Batch:
        """Batch number `n`; images of the next one are decoded from now on."""
        batch = self.batch(n)
        if self._resident is None:
            self.images.expect(self._index(n + 1))
        return batch

    def _made_ahead(self, n: int) -> Batch:
        """The same, by a thread that goes on with the next batch."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        number, ahead = self._ahead or (n, self._thread.submit(self._made, n))
        batch = (ahead if number == n else self._thread.submit(self._made, n)).result()
        self._ahead = n + 1, self._thread.submit(self._made, n + 1)
        return batch

    def batch(self, n: int) -> Batch:
        """Batch number `n`, counted from 0 over all epochs."""
        epoch, step, part, mine = self._place(n)
        order, flips = self._order(epoch)
        if self._resident is not None:
            return self._resident.batch(epoch, order, flips if self.flip else None, mine)
        index = order[mine]
        label = None if self.labels is None else self.labels.index_select(0, index)
        batch = collate(self.images.take(index), flips[mine] if self.flip else None, label)
        return batch if self.transform is None else self.transform(batch, (epoch, step, part))

    def _index(self, n: int) -> Tensor:
        """Which images (B,) batch number `n` holds."""
        epoch, _, _, mine = self._place(n)
        return self._order(epoch)[0][mine]

    def _place(self, n: int) -> tuple[int, int, int, slice]:
        """Pass, step and part of batch number `n`, and where it lies in the pass."""
        epoch, k = divmod(n % self.repeat if self.repeat else n, len(self))
        step, turn = divmod(k, self.accumulate)
        part, parts = turn * self.world_size + self.rank, self.accumulate * self.world_size
        return epoch, step, part, slice(step * self.batch_size + part, (step + 1) * self.batch_size, parts)

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Permutation and flips (N,) of one pass; kept until another pass is asked for."""
        if self._pass is None or self._pass[0] != epoch:
            # torch's CPU generator keeps 32 bits of its seed: mix seed and epoch instead of adding them, so that no
            # epoch of one run repeats an epoch of a run with a neighbouring seed.
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
            order = torch.randperm(len(self.images), generator=generator)
            self._pass = epoch, order, torch.rand(len(order), generator=generator) < 0.5
        return self._pass[1], self._pass[2]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the number of batches given out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.position = int(state["position"])


class EvalLoader:
    """Held-out batches in their order, unflipped; the last may be smaller. Arguments as in `TrainLoader`.

    Attributes:
        transform: What every batch goes through in the end, with the places (B,) of its images; None is nothing.
    """

    transform: Callable[[Batch, Tensor], Batch] | None

    def __init__(
        self, images: ImageStore, labels: Tensor | None, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.transform = None
        # Every process must take part in every step: the few images beyond a multiple of world_size are left out.
        self.index = torch.arange(rank, len(images) // world_size * world_size, world_size)
        self.per_rank = max(1, batch_size // world_size)

    def __len__(self) -> int:
        return -(-len(self.index) // self.per_rank)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.index.split(self.per_rank):
            label = None if self.labels is None else self.labels.index_select(0, index)
            batch = collate(self.images.take(index), None, label)
            yield batch if self.transform is None else self.transform(batch, index)
