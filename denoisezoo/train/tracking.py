"""W&B: one set-up for every recipe. It watches training and never ends it: missing, offline or slow, it is left out.

A run of W&B is a run folder. Each metric goes to the trainer's step, which W&B's own step follows; what a resumed run
repeats is not sent again, so that steps never go back.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from denoisezoo import __version__
from denoisezoo.errors import UserError
from denoisezoo.evaluation.card import device_name, versions
from denoisezoo.files import json_safe, write_text
from denoisezoo.version import git_commit

STEP = "trainer/global_step"
WANDB, MARK, IDENTITY, UNSENT_IDENTITY = "wandb", "last_step", "id", "unsent_id"
"""Folder of W&B in a run folder, and in it: the latest step that was sent, the identity of the run, and that of what
was kept here because W&B did not answer."""
PATIENCE = 3
"""Failures after which W&B is left alone."""
INIT_SECONDS, FINISH_SECONDS = 30, 120
FINISHING = "wandb-finish"


class Tracker(WandbLogger):
    """Lightning's W&B logger, which survives W&B and never goes back in steps.

    Args:
        folder: The run folder; it keeps the identity of the run, so that resuming goes on in the same run.
        project: W&B's project.
        identity: File in the folder's `wandb` that keeps it.
        options: More arguments of `wandb.init`.

    Attributes:
        last_step: The latest step that was sent, kept in the folder.
        failures: Calls that W&B did not survive.
    """

    def __init__(self, folder: Path, project: str, identity: str = IDENTITY, **options: Any) -> None:
        known = identity_of(folder, identity)
        super().__init__(project=project, name=folder.name, save_dir=folder, id=known, resume="allow", **options)
        self.mark = folder / WANDB / MARK
        self.failures = 0
        try:
            self.last_step = int(self.mark.read_text())
        except (OSError, ValueError):
            self.last_step = 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send metrics, tables or images of a step; None is the latest. Earlier steps have been sent before."""
        step = self.last_step if step is None else step
        if step < self.last_step:
            return
        self.attempt(lambda: self.experiment.log({**metrics, STEP: step}, step=step))
        if step > self.last_step:
            self.last_step = step
            keep(self.mark, str(step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Send pictures."""
        self.attempt(lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    def attempt(self, act: Callable[..., Any], *args: Any) -> None:
        """Do something with W&B; what goes wrong is said, and training goes on."""
        if self.failures >= PATIENCE:
            return
        try:
            act(*args)
        except Exception as error:  # a page that watches must not end what it watches
            self.failures += 1
            warn(f"W&B: {error}" + ("; it is left out from here" if self.failures == PATIENCE else ""))

    @rank_zero_only
    def close(self, status: int = 0) -> None:
        """End the run; what a slow network has not taken after two minutes stays here for `wandb sync`."""
        ending = threading.Thread(
            target=lambda: self.attempt(lambda: self.experiment.finish(status)), name=FINISHING, daemon=True
        )
        ending.start()
        ending.join(FINISH_SECONDS)
        if ending.is_alive():
            warn(f"W&B is slow; send the rest later: wandb sync {self.save_dir}/wandb")


def identity_of(folder: Path, name: str = IDENTITY) -> str:
    """The identity of a run folder's run: random, so that no other folder, machine or day has it, and kept there."""
    path = folder / WANDB / name
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch(r"[0-9a-f]{16}", known := path.read_text().strip()):
            return known
    identity = secrets.token_hex(8)
    keep(path, identity)
    return identity


@rank_zero_only
def keep(path: Path, text: str) -> None:
    """Write a file whole, where it can be written."""
    with contextlib.suppress(UserError):
        write_text(path, text)


def make_tracker(folder: Path, project: str, config: dict[str, Any], **options: Any) -> Tracker | None:
    """A tracker that has begun its run; offline where there is no key, or no answer. None where W&B cannot be used.

    Args:
        folder: The run folder.
        project: W&B's project.
        config: The resolved configuration.
        options: More arguments of `wandb.init`, such as group and tags.
    """
    try:
        import wandb
    except ImportError:
        warn("wandb is not installed, and nothing is sent to it (pip install wandb)")
        return None
    named = os.environ.get("WANDB_MODE")
    wanted = "offline" if named == "dryrun" else named or ("online" if has_key() else "offline")
    settings = wandb.Settings(init_timeout=INIT_SECONDS, silent=True)
    attempts = [(wanted, IDENTITY)]
    if wanted != "offline":  # W&B's service holds on to an identity that it could not begin a run with
        attempts.append(("offline", UNSENT_IDENTITY))
    for mode, identity in attempts:
        try:
            (folder / WANDB).mkdir(parents=True, exist_ok=True)
            tracker = Tracker(folder, project, identity, mode=mode, settings=settings, **options)
            tracker.experiment.define_metric(STEP)
            tracker.experiment.define_metric("*", step_metric=STEP)
            tracker.experiment.config.update(json_safe(config) | surroundings(), allow_val_change=True)
            return tracker
        except Exception as error:
            warn(f"W&B cannot be used ({mode}): {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return None


def surroundings() -> dict[str, Any]:
    """Code version and environment, for the run's configuration."""
    code = {"denoisezoo": __version__, "git_commit": git_commit()}
    machine = {"cpu": device_name("cpu"), "cores": os.cpu_count(), "versions": versions()}
    with contextlib.suppress(Exception):
        machine["gpu"] = device_name("cuda")
    return {"code": code, "environment": machine}


def has_key() -> bool:
    """Whether W&B can log in without asking: it looks for a key by its own rules, for the server that it is set to."""
    import wandb

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where it found the key, and how to log in anew
            if "prompt" in inspect.signature(wandb.login).parameters:
                return bool(wandb.login(prompt=False, verify=False))
            return bool(wandb.api.api_key)  # in versions that could not be told to ask for none
    except Exception as error:
        warn(f"W&B has no key that it can use: {error}")
        return False


@rank_zero_only
def warn(text: str) -> None:
    """One line on standard error."""
    print(f"warning: {' '.join(text.split())}", file=sys.stderr)


def trackers(loggers: list[Any]) -> list[Tracker]:
    """Those loggers that are W&B's."""
    return [logger for logger in loggers if isinstance(logger, Tracker)]


@rank_zero_only
def log_card(tracker: Tracker, name: str, card: dict[str, Any], files: tuple[Path, ...] = ()) -> None:
    """Keep a result card as an artifact.

    Args:
        tracker: Where.
        name: Name of the artifact.
        card: What it says; also its metadata, by which W&B can filter.
        files: Files to put beside it.
    """

    def act() -> None:
        import json

        import wandb

        artifact = wandb.Artifact(name, type="result-card", metadata=json_safe(card))
        with artifact.new_file("card.json", encoding="utf-8") as file:
            file.write(json.dumps(json_safe(card), indent=2))
        for path in files:
            if path.is_file():
                artifact.add_file(str(path))
        tracker.experiment.log_artifact(artifact)

    tracker.attempt(act)
