"""Trainings in processes of their own, some of which end by SIGKILL at a chosen moment, or meet what is not finite."""

import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

PRELOAD = ["denoisezoo.train.fit", "denoisezoo.train.recipe", "sklearn.datasets", "timm.optim", "tests.train.faults"]
"""Imported once, by a process that does nothing but fork; each training is a fork of it."""


def context():
    """Processes that begin with everything imported."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOAD)
    return found


@dataclass(frozen=True)
class Kill:
    """When a process ends itself: at the `count`-th event of a phase, at a point or after a delay.

    Attributes:
        phase: "step", "checkpoint" or "validation".
        count: Which one, from 1.
        point: For checkpoints, between which two actions; None counts time.
        delay: Seconds from the beginning of the event.
    """

    phase: str
    count: int
    point: str | None = None
    delay: float = 0.0


@dataclass(frozen=True)
class Poison:
    """What one process of several meets that is not finite, while the others meet nothing of the kind.

    Attributes:
        rank: The process.
        steps: In which steps.
        where: What, for each of them. "data": a pixel of its batch; "gradient": a gradient, after those of all were
            averaged; "computation": a computation that gives up.
        keep: A folder for the weights of every process, and what its guard has counted.
    """

    rank: int
    steps: tuple[int, ...]
    where: tuple[str, ...]
    keep: Path


POINTS = ("half written", "before checksum", "before renames", "between renames", "before link", "before removal")


def random_kills(number: int, seed: int) -> list[Kill]:
    """Moments in all three phases, in random order."""
    choose = random.Random(seed)
    kills = []
    for i in range(number):
        phase = ("step", "checkpoint", "validation")[i % 3]
        count = choose.randint(2, 8) if phase == "step" else choose.randint(1, 2)
        point = choose.choice([*POINTS, None]) if phase == "checkpoint" else None
        kills.append(Kill(phase, count, point, choose.uniform(0, 0.02)))
    choose.shuffle(kills)
    return kills


def die() -> None:
    """End this process as a power failure would: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def before(owner, name, action):
    """Call `action` before each call of a function."""
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
        action()
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def countdown(kill: Kill, act=None):
    """An action that does nothing until it is called for the `count`-th time."""
    left = [kill.count]

    def action():
        left[0] -= 1
        if left[0] == 0:
            (act or threading.Timer(kill.delay, die).start)()

    return action


def arm(kill: Kill) -> None:
    """Make this process end itself at the moment that `kill` describes."""
    import torch

    from denoisezoo.train import checkpoint, saving
    from denoisezoo.train.module import DiffusionModule

    if kill.phase == "step":
        before(DiffusionModule, "training_step", countdown(kill))
    elif kill.phase == "validation":
        before(DiffusionModule, "validation_step", countdown(kill))
    elif kill.point is None:
        before(torch, "save", countdown(kill))
    elif kill.point == "half written":
        save = torch.save

        def half(contents, path):
            save(contents, path)
            os.truncate(path, os.path.getsize(path) // 2)
            die()

        before(torch, "save", countdown(kill, lambda: setattr(torch, "save", half)))
        # The wrapper looks its function up when it is made: the next save is the half one.
    else:
        owner, name = {
            "before checksum": (checkpoint, "write_text"),
            "before renames": (os, "replace"),
            "between renames": (os, "replace"),
            "before link": (saving, "link"),
            "before removal": (checkpoint.AtomicCheckpointIO, "remove_checkpoint"),
        }[kill.point]
        action = countdown(Kill(kill.phase, 2), die) if kill.point == "between renames" else die
        before(torch, "save", countdown(kill, lambda: before(owner, name, action)))


def poison(trouble: Poison) -> None:
    """Make this process meet it, if it is the one, and write down how it ends."""
    import torch

    from denoisezoo.errors import ComputationError
    from denoisezoo.train import training_module as training
    from denoisezoo.train.ema import EMA
    from denoisezoo.train.guard import Guard
    from denoisezoo.train.module import DiffusionModule
    from denoisezoo.train.sharding import mine

    passes, losses_of, of_step = DiffusionModule.passes, training.losses_of, []

    def due(module, where):
        meets = dict(zip(trouble.steps, trouble.where, strict=True))
        return module.global_rank == trouble.rank and meets.get(module.global_step) == where

    def give_up(*_):
        raise ComputationError("solver failed", "raise rtol")

    def poisoned(self, batch, batch_idx):
        of_step[:] = [self]
        if due(self, "data"):
            batch["image"][0, 0, 0, 0] = float("nan")
        return passes(self, batch, batch_idx)

    def computed(objective, drawn):
        if due(of_step[0], "computation"):  # in the midst of the forward pass, if the pass comes by this layer
            *_, layer = drawn.step.denoiser.backbone.modules()
            handle = layer.register_forward_pre_hook(give_up)
            try:
                losses_of(objective, drawn)
            finally:
                handle.remove()
            give_up()
        return losses_of(objective, drawn)

    def on_after_backward(self):
        if due(self, "gradient"):
            mine(next(self.parameters()).grad).fill_(float("inf"))

    def on_train_end(self):
        (guard,) = (callback for callback in self.trainer.callbacks if isinstance(callback, Guard))
        (ema,) = (callback for callback in self.trainer.callbacks if isinstance(callback, EMA))
        moments = [m for of in self.trainer.optimizers[0].state.values() for m in of.values() if m.ndim]
        weights, average = list(self.parameters()), list(ema.average(self).parameters())
        state = {
            "weights": {name: mine(tensor) for name, tensor in self.state_dict().items()},
            "guard": guard.state_dict(),
            "images_seen": self.images_seen,
            "numbers": {
                name: (sum(mine(tensor).numel() for tensor in tensors), sum(tensor.numel() for tensor in tensors))
                for name, tensors in {"weights": weights, "moments": moments, "average": average}.items()
            },
        }
        torch.save(state, trouble.keep / f"{self.global_rank}.pt")

    DiffusionModule.passes = poisoned
    training.losses_of = computed
    DiffusionModule.on_after_backward = on_after_backward
    DiffusionModule.on_train_end = on_train_end


def body(
    arguments: list[str], trouble: Kill | Poison | None, environment: dict[str, str], log: str, command: str
) -> None:
    """What the process does."""
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    torch.set_num_threads(1)
    rank_zero_only.rank = int(environment.get("RANK", "0"))  # Lightning looks when it is imported, which was before
    from denoisezoo.cli import main
    from denoisezoo.train.module import DiffusionModule

    DiffusionModule.training_macs = lambda self: 1  # counting takes most of the time of a run as short as these
    if isinstance(trouble, Kill):
        arm(trouble)
    elif trouble is not None:
        poison(trouble)
    try:
        status = main(["--debug", command, *arguments])
    except BaseException:
        traceback.print_exc()
        status = 99
    os._exit(status)


def start(
    arguments: list[str],
    log: Path,
    trouble: Kill | Poison | None = None,
    environment: dict[str, str] | None = None,
    command="train",
):
    """Start a training, or another command; `log` takes what it prints."""
    process = context().Process(target=body, args=(arguments, trouble, environment or {}, str(log), command))
    process.start()
    return process


def wait(processes, seconds: float = 120) -> list[int | None]:
    """Exit statuses of processes, which are ended if they do not end by themselves; None is one that had to be."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return found


def run(arguments: list[str], log: Path, kill: Kill | None = None) -> int:
    """Train, and return the exit status; -9 is SIGKILL."""
    (status,) = wait([start(arguments, log, kill)])
    assert status is not None, log.read_text()
    return status
