"""An orderly end when somebody asks for it: by Ctrl-C, or by the signals that kill, containers and clusters send."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

CTRL_C, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit statuses, as a shell reports a process that a signal has ended."""
STATUSES = {signal.SIGINT: CTRL_C, signal.SIGTERM: TERMINATED, signal.SIGUSR1: TERMINATED}
"""Signal -> exit status. SLURM sends SIGUSR1 before the time is up, where a job asks for that."""


class StopOnInterrupt(Callback):
    """The first signal ends training after the step in hand, with a checkpoint; a second Ctrl-C aborts at once.

    `Checkpoints` looks here between two steps, and stops training there.

    Attributes:
        status: The exit status that the signal asks for; 0 before there was one.
    """

    def __init__(self) -> None:
        self.status = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._stop) for number in STATUSES}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.status = self.status or STATUSES[signal.Signals(number)]
        self._restore(signal.SIGINT)

    def _restore(self, *numbers: int) -> None:
        for number in set(numbers) & set(self._previous):
            handler = self._previous.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore(*STATUSES)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore(*STATUSES)


def stopper(trainer: Trainer) -> StopOnInterrupt:
    """The trainer's callback; where it has none, one that never stops."""
    return next(
        (callback for callback in trainer.callbacks if isinstance(callback, StopOnInterrupt)), StopOnInterrupt()
    )


@contextlib.contextmanager
def honest_exits() -> Iterator[None]:
    """Make an abort by a signal what it was: Lightning turns it into an exit with status 1, or 0 for SIGTERM.

    Raises:
        KeyboardInterrupt: A second Ctrl-C.
        SystemExit: SIGTERM before training had begun.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        raise SystemExit(TERMINATED) from error
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        raise KeyboardInterrupt from error


def cluster_plugins(plugins: list[Any]) -> list[Any]:
    """SLURM's environment without Lightning's own handler of signals, which writes a checkpoint amid a step.

    Args:
        plugins: Those of the recipe; an environment among them stays as it is.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]
