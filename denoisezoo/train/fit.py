"""Training one recipe in its run folder; the same call again resumes it."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from denoisezoo.data import ImageData
from denoisezoo.data.identity import difference
from denoisezoo.diffusion.perceptual import FILE as PERCEPTUAL
from denoisezoo.errors import UserError, rewording
from denoisezoo.files import json_safe, write_json, write_text
from denoisezoo.locking import only_writer
from denoisezoo.profiling.trajectory import encoding_macs
from denoisezoo.train import recipe_yaml
from denoisezoo.train.callbacks import SampleGrid, Throughput
from denoisezoo.train.checkpoint import check_format, data_known, newest_checkpoint, read_checkpoint
from denoisezoo.train.costs import log_costs
from denoisezoo.train.described import with_codec
from denoisezoo.train.device_choices import choose_for_device, fast_arithmetic
from denoisezoo.train.efforts import training_macs
from denoisezoo.train.explain import as_keys, explain
from denoisezoo.train.guard import DivergenceError
from denoisezoo.train.log import RunLog, first_step, log_files
from denoisezoo.train.places import origin_of
from denoisezoo.train.recipe import CONFIG_NAME, RecipeCLI, parse_recipe, plain_config
from denoisezoo.train.resumable import SUMMARY, check_resumable, first_difference, kept, read_summary, resuming
from denoisezoo.train.sharding import allow_unused, check_sharding, keep_buffers
from denoisezoo.train.stopping import honest_exits, stopper
from denoisezoo.train.suited import check_data
from denoisezoo.train.teachers import Loader, nothing_loads
from denoisezoo.train.tracking import IDENTITY, MARK, UNSENT_IDENTITY, WANDB, log_card, make_tracker, trackers
from denoisezoo.train.training_module import TrainingModule

# What may differ between a run and its resumption: how long, how fast and how talkative, not what. A resumed step must
# be the same step, so that of the trainer, what decides on its arithmetic and its parts may not.
EXIT_SILENT = 2
"""Status of a process whose mistake another process tells."""
PATIENCE = 2
"""Seconds that a process waits for others to come upon the same mistake."""


@dataclass(frozen=True)
class TrainResult:
    """What training did.

    Attributes:
        folder: The run folder.
        steps: Optimiser steps so far.
        status: Exit status: 0, or that of the signal that ended it, such as 130 for Ctrl-C.
        facts: What run.json holds: images_seen, train_steps, train_seconds, train_macs,
            train_macs_relative (to training the full network alone), both None where they depend on the data, seed, ...
        rank: Which process of several this is.
        loss: Of the last step that was logged; None where none was.
    """

    folder: Path
    steps: int
    status: int
    facts: dict[str, Any]
    rank: int = 0
    loss: float | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it before its last step."""
        return self.status > 0


@rewording(as_keys)
def train(what: Sequence[str] | RecipeCLI, load: Loader = nothing_loads) -> TrainResult:
    """Train as `denoisezoo train ARGS` does.

    Args:
        what: `--config RECIPE` and any overrides, as on the command line; or what somebody by hand has built.
        load: Reads the runs that training begins with or learns from.

    Raises:
        UserError: The recipe or a value is wrong, the run folder holds another run, another process trains there, or it
            cannot be written.
    """
    cli = what if isinstance(what, RecipeCLI) else parse_recipe(what)
    check_sharding(cli.trainer, cli.model)
    allow_unused(cli.trainer, cli.model)
    keep_buffers(cli.trainer, cli.model)
    choose_for_device(cli.trainer, cli.model)
    check_samples(cli)
    folder = Path(cli.trainer.default_root_dir)
    with contextlib.ExitStack() as held:
        if cli.trainer.is_global_zero:  # the other processes of the run share its folder
            held.enter_context(only_writer(folder, "wait until it ends, or give another `trainer.default_root_dir`"))
        held.enter_context(fast_arithmetic(cli.trainer))
        begin, result = begin_in(cli, folder, load)
        if result is not None:
            return result
        try:
            with quiet(), honest_exits(), one_error_for_all(cli.trainer, folder), resuming(begin):
                cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=begin, weights_only=True)
            result = finish(cli, folder)
        finally:
            close_loggers(cli.trainer.loggers, folder, result.facts if result else None)
    return result


def begin_in(cli: RecipeCLI, folder: Path, load: Loader) -> tuple[Path | None, TrainResult | None]:
    """Make ready to train in a folder that nothing else writes into.

    Returns:
        The checkpoint to go on from, None for a fresh run; and what a run has come to that is through already.
    """
    config = with_codec(plain_config(cli), cli.model.denoiser.codec)
    checkpoint = newest_checkpoint(folder)
    parts = cli.trainer.world_size * cli.trainer.accumulate_grad_batches
    done, known = steps_done(checkpoint, folder, config, cli.model, parts)
    if done and 0 < cli.trainer.max_steps <= done and (facts := read_facts(folder)):
        return checkpoint, TrainResult(folder, done, 0, facts)
    cli.model.recipe = config
    cli.datamodule.setup("fit")
    check_data(cli.model.name, cli.model.denoiser, cli.datamodule)
    cli.model.encoded_before = cli.datamodule.encode_with(cli.model.denoiser.codec, cli.trainer.strategy.root_device)
    cli.model.data_known = identify(cli.datamodule, known, folder)
    if cli.trainer.is_global_zero:
        clear_given_up(folder, done, config)
    warn_untrained(cli.model)
    cli.model.prepare(cli.datamodule, folder, load, fresh=not done)
    if cli.trainer.is_global_zero:
        save_config(folder, config)
    add_loggers(cli, folder, done, config)
    log_costs(cli.trainer.loggers, cli.model.name, cli.model.denoiser.backbone)
    return checkpoint if done else None, None


@rank_zero_only
def warn_untrained(model: TrainingModule) -> None:
    """Say that a network has the outputs of a learned variance."""
    outputs = model.denoiser.backbone.spec.out_channels
    if untrained := model.denoiser.untrained:
        print(
            f"warning: {untrained} of the {outputs} output channels of {model.name} are of a learned variance, which "
            f"no objective trains; `model.network.out_channels={outputs - untrained}` leaves them out",
            file=sys.stderr,
        )


def check_samples(cli: RecipeCLI) -> None:
    """Refuse settings of sample grids that the sampler would refuse in the midst of training.

    Raises:
        UserError: What the sampler says.
    """
    for callback in cli.trainer.callbacks:
        if isinstance(callback, SampleGrid):
            callback.check(cli.model.denoiser.process, cli.trainer.max_steps)


@contextlib.contextmanager
def one_error_for_all(trainer: Any, folder: Path) -> Iterator[None]:
    """Among several processes, tell of one that has gone in one line, and once what all of them have met.

    Raises:
        UserError: The processes lost each other, or one of theirs.
    """
    try:
        yield
    except DivergenceError:
        if trainer.global_rank == 0:
            raise
        raise SystemExit(EXIT_SILENT) from None  # the first process says it for all, with the loss of its own batch
    except (UserError, MisconfigurationException) as error:
        # Lightning sees the values of some options only with the data.
        mistake = error if isinstance(error, UserError) else UserError(*explain(str(error), error))
        if told_by_first(str(mistake), trainer):
            raise SystemExit(EXIT_SILENT) from None
        raise mistake from error
    except RuntimeError as error:
        if trainer.world_size == 1:
            raise
        good = newest_checkpoint(folder)
        raise UserError(
            f"process {trainer.global_rank} of {trainer.world_size} cannot go on: {str(error).splitlines()[0][:120]}",
            "run the same command again; it goes on " + (f"from {good}" if good else "from the beginning"),
        ) from error


def told_by_first(message: str, trainer: Any) -> bool:
    """Whether the first process has met the same mistake, and tells it for this one.

    Each waits for a moment, until the others had time to come to it, too: all do, unless it is one's own.
    """
    if trainer.world_size == 1 or not dist.is_initialized():
        return False
    store, patience = dist.distributed_c10d._get_default_store(), timedelta(seconds=PATIENCE)
    try:
        if trainer.global_rank:
            store.wait(["mistake"], patience)
            same = store.get("mistake") == message.encode()
            store.set(f"heard by {trainer.global_rank}", "")
            return same
        store.set("mistake", message)
        store.wait([f"heard by {rank}" for rank in range(1, trainer.world_size)], patience)
    except RuntimeError:  # nobody came, or the first process has gone
        return False
    return False


def steps_done(
    checkpoint: Path | None, folder: Path, config: dict[str, Any], model: TrainingModule, parts: int
) -> tuple[int, dict[str, Any]]:
    """Steps of the checkpoint that a run folder goes on from, 0 for a fresh one; and what it knows of its data.

    Args:
        checkpoint: It, if there is one.
        folder: The run folder.
        config: The resolved configuration.
        model: What is to be trained.
        parts: Into how many parts a step is divided: processes times batches over which each accumulates.

    Raises:
        UserError: The folder holds a run of other settings, or of a network that has changed since.
    """
    if checkpoint is None:
        return 0, {}
    content = read_checkpoint(checkpoint)
    known = data_known(content)
    # Data that are known again may have been moved.
    theirs, ours = kept(content["denoisezoo"]["recipe"], bool(known)), kept(config, bool(known))
    if content["denoisezoo"].get("parts") == parts:  # the same parts of a step, whoever computes them one after another
        ours["trainer"]["accumulate_grad_batches"] = theirs["trainer"]["accumulate_grad_batches"]
    if key := first_difference(theirs, ours):
        raise UserError(
            f"{folder} holds a run with another {key}",
            f"give another `trainer.default_root_dir`, or delete {folder}",
        )
    check_format(checkpoint, content["denoisezoo"].get("format"), model.name, model.denoiser.backbone.config)
    check_resumable(content, checkpoint)
    return int(content["global_step"]), known


def identify(data: ImageData, known: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a run remembers of its data, and where it began.

    Args:
        data: The data, set up.
        known: What the checkpoint knows that the run goes on from; empty where there is none, or it is older than that.
        folder: The run folder.

    Raises:
        UserError: They are other data than those.
    """
    identity = data.identity()
    if what := difference(known, identity):
        raise UserError(
            f"the data {data.title} have changed since {folder} was trained on them: {what}",
            "put them back as they were, or give another `trainer.default_root_dir`",
        )
    return {**identity, "origin": origin_of(folder)}


def clear_given_up(folder: Path, step: int, config: dict[str, Any]) -> None:
    """Remove what the folder says of steps that are trained again, and of a run that had no checkpoint to go on from.

    Args:
        folder: The run folder.
        step: Step from which training goes on.
        config: The resolved configuration. Where a run of another one began here, its networks and its identity for W&B
            go too.
    """
    given_up = [path for path in log_files(folder) if first_step(path) >= step]
    if step == 0:
        given_up.append(folder / SUMMARY)
        try:
            before = kept(recipe_yaml.load((folder / CONFIG_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            before = {}
        if first_difference(before, kept(config)):
            given_up += [folder / PERCEPTUAL, *(folder / WANDB / name for name in (IDENTITY, UNSENT_IDENTITY, MARK))]
    with contextlib.suppress(OSError):
        for path in given_up:
            path.unlink(missing_ok=True)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What run.json says of a run that ended in order, or None."""
    facts = read_summary(folder)
    return facts if facts.get("finished") else None


def add_loggers(cli: RecipeCLI, folder: Path, step: int, config: dict[str, Any]) -> None:
    """CSV always, a file for each time that training starts; W&B when asked and possible."""
    loggers: list[Any] = [RunLog(folder, step)]
    if config.get("wandb"):
        facts = {"denoiser": cli.model.name, "family": cli.model.family}
        tags = [cli.model.family, cli.datamodule.dataset]
        tracker = make_tracker(folder, str(config["wandb"]), config | facts, group=cli.model.family, tags=tags)
        loggers += [tracker] if tracker else []
    cli.trainer.loggers = loggers


def close_loggers(loggers: list[Any], folder: Path, facts: dict[str, Any] | None) -> None:
    """End W&B's run, with the card of the training where it came to its end."""
    for tracker in trackers(loggers):
        if facts:
            tracker.attempt(tracker.experiment.summary.update, json_safe(summary_of(facts)))
            log_card(tracker, f"training-{tracker.version}", facts, (folder / CONFIG_NAME, folder / SUMMARY))
        tracker.close(0 if facts else 1)


def summary_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What W&B's table of runs shows of a training."""
    return {key: facts[key] for key in ("denoiser", "family", "seed", "images_seen", "train_seconds", "train_macs")}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's hints, which speak of options that recipes set on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield


def save_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the resolved configuration into the run folder."""
    write_text(folder / CONFIG_NAME, recipe_yaml.dump(config))


def finish(cli: RecipeCLI, folder: Path) -> TrainResult:
    """Write run.json and say how it ended."""
    trainer, module = cli.trainer, cli.model
    # Not counted yet where a run is resumed whose time is over: it does not start again.
    counted = next(c.macs_per_image for c in trainer.callbacks if isinstance(c, Throughput))
    per_image = module.training_macs() if counted is None else counted
    before = module.encoded_before and module.encoded_before * encoding_macs(module.counted)
    status = stopper(trainer).status
    facts = {
        "denoiser": module.name,
        "family": module.family,
        "seed": module.seed,
        "perceptual": module.objective.perceptual_title,
        "teacher_sha256": module.teacher_sha256,
        **module.denoiser.codec.facts(),
        "train_steps": trainer.global_step,
        "images_seen": module.images_seen,
        "train_seconds": module.train_seconds,
        "train_macs": None if per_image is None else per_image * module.images_seen + before,
        "train_macs_relative": None if per_image is None else per_image / training_macs(module.counted),
        "finished": status == 0,
        "data": cli.datamodule.card(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if trainer.is_global_zero:
        write_json(folder / SUMMARY, facts)
    loss = trainer.callback_metrics.get("train/loss")
    told = None if loss is None else float(loss)
    return TrainResult(folder, trainer.global_step, status, facts, trainer.global_rank, told)
