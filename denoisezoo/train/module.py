"""The one LightningModule that trains every denoiser. It knows no architecture and no process."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from denoisezoo.archs import Effort, create_denoiser, get_variant
from denoisezoo.diffusion import NetworkDenoiser, Objective, Preconditioning, Process
from denoisezoo.diffusion.objectives import Loss
from denoisezoo.errors import ComputationError, UserError, unknown
from denoisezoo.train.efforts import DDSM, Mode, Sandwich, check_mode, choose, expected_macs, sandwich_losses
from denoisezoo.train.log import log_due, log_now
from denoisezoo.train.noise_bins import NoiseBins


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rate over time.

    Args:
        name: Any optimiser of timm, e.g. adamw, adam, muon, lion.
        lr: Learning rate after warm-up.
        betas: Momentum factors.
        weight_decay: Decay of weights; not of biases and norms.
        warmup_steps: Steps of linear warm-up.
        schedule: What follows: "constant", "linear" to zero, or "cosine" to zero, at the last step.
    """

    name: str = "adamw"
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"

    def factor(self, step: int, max_steps: int) -> float:
        """Learning rate at a step as a share of `lr`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]

    def build(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimiser for the parameters of `module`, fused where torch offers it."""
        from timm.optim import create_optimizer_v2, list_optimizers

        names = [str(name) for name in list_optimizers()]
        if self.name not in names:
            raise unknown("optimizer", self.name, names)
        options: dict[str, Any] = {"betas": self.betas}
        if self.name in {"adam", "adamw"}:
            options["fused"] = True
        try:
            return create_optimizer_v2(module, opt=self.name, lr=self.lr, weight_decay=self.weight_decay, **options)
        except TypeError:
            del options["betas"]  # not all optimisers have two of them
            return create_optimizer_v2(module, opt=self.name, lr=self.lr, weight_decay=self.weight_decay, **options)


def check_dropout(label_dropout: float, num_classes: int, name: str) -> None:
    """Refuse to drop labels that are not there.

    Raises:
        UserError: A share that is none, or a network without classes.
    """
    if not 0 <= label_dropout < 1:
        raise UserError(f"label_dropout is {label_dropout}", "give a share of at least 0 and below 1, such as 0.1")
    if label_dropout and not num_classes:
        raise UserError(f"{name} knows no classes whose labels could be dropped", "set model.network.num_classes")


class DiffusionModule(LightningModule):
    """Trains one denoiser.

    Times, noise and dropout of a step depend on nothing but (seed, step, part of the batch), so a resumed run draws
    what an unbroken one would have drawn.

    Args:
        denoiser: Registry name of the backbone.
        process: How images are destroyed.
        preconditioning: How the backbone's input and output relate to the process.
        objective: Which noise levels count, and how much.
        network: Fields of the backbone's configuration to change, e.g. {num_classes: 10}.
        optimizer: Optimiser and learning rate.
        channels_last: Keep weights and activations in channels-last layout.
        compile: Compile the backbone in place.
        effort: "full" trains the full network; "random" draws one of its efforts for each step; "sandwich" trains
            several in each step.
        sandwich: Which ones, and what they share.
        label_dropout: Share of the images that are trained without their label, as classifier-free guidance needs.
        on_failure: What a computation that cannot go on, such as an ODE that has become too stiff, does to training:
            "stop" ends it, and the last checkpoint stays; "skip" goes on with the next batch, and logs how many.
        seed: Seed of times and noise; the trainer's unless given.
    """

    def __init__(
        self,
        denoiser: str,
        process: Process,
        preconditioning: Preconditioning,
        objective: Objective,
        network: dict[str, Any] | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),
        channels_last: bool = True,
        compile: bool = False,
        effort: Mode = "full",
        sandwich: Sandwich = DDSM,
        label_dropout: float = 0.0,
        on_failure: Literal["stop", "skip"] = "stop",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.family = denoiser, get_variant(denoiser).family.name
        backbone = create_denoiser(denoiser, **(network or {}))
        if channels_last:
            backbone = backbone.to(memory_format=torch.channels_last)
        if compile:
            backbone.compile()  # in place: keys of the checkpoint stay as they are
        self.denoiser = NetworkDenoiser(backbone, process, preconditioning)
        self.objective, self.optimizer_config = objective, optimizer
        check_mode(effort, backbone.efforts, sandwich, denoiser)
        self.effort, self.sandwich = effort, sandwich
        check_dropout(label_dropout, backbone.spec.num_classes, denoiser)
        self.label_dropout = label_dropout
        self.on_failure, self.skipped = on_failure, 0
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.noise_bins = NoiseBins()
        self.images_seen, self.train_seconds = 0, 0.0
        self.recipe: Mapping[str, Any] = {}
        """The resolved configuration, kept in every checkpoint, so that a checkpoint alone can be sampled."""
        self._started = 0.0

    def check_data(self, data: Any) -> None:
        """Refuse data of other channels, size or classes than the network takes."""
        spec, process = self.denoiser.backbone.spec, self.denoiser.process
        self._check_condition(data)
        for what, needs, has, field_ in (
            ("channels", spec.in_channels, process.state_channels(data.channels), "in_channels"),
            ("pixels a side", spec.resolution, data.resolution, "resolution"),
        ):
            if needs != has:
                raise UserError(
                    f"{self.name} takes images of {needs} {what}, and {data.title} has {has}"
                    + (f" under {type(process).__name__}" if process.k > 1 and what == "channels" else ""),
                    f"add --model.network.{field_} {has}, or choose other data",
                )
        if data.num_classes != spec.num_classes:
            raise UserError(
                f"{self.name} knows {spec.num_classes} classes, and {data.title} gives {data.num_classes}",
                f"add --model.network.num_classes {data.num_classes}, or set --data.labels to match",
            )

    def _check_condition(self, data: Any) -> None:
        spec, process = self.denoiser.backbone.spec, self.denoiser.process
        needs, has = process.given_channels or spec.cond_channels, data.cond_channels
        if needs == has:
            return
        where = "process.cond_channels" if process.given_channels else "network.cond_channels"
        raise UserError(
            f"{self.name} takes conditions of {needs} channels, and {data.title} gives {has}",
            f"add --model.{where} {has}" if has else "choose Paired data with a task",
        )

    def configure_optimizers(self) -> Any:
        """The optimiser with its schedule by step."""
        optimizer = self.optimizer_config.build(self.denoiser)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optimizer_config.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def generator(self, *key: int) -> torch.Generator:
        """A generator on the module's device whose numbers depend on the seed and `key` alone."""
        return torch.Generator(self.device).manual_seed(self._mixed(*key))

    def _mixed(self, *key: int) -> int:
        return int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])

    def on_train_start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter() - self.train_seconds

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The objective of one batch; None skips a batch that could not be computed."""
        try:
            return self._training_step(batch, batch_idx)
        except ComputationError:
            if self.on_failure == "stop":
                raise
        self.skipped += 1
        return None

    def _training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.denoiser.process.advance(self.global_step)
        efforts, losses = self.losses(batch, batch_idx)
        size = len(batch["image"])
        self.noise_bins.add(self.denoiser.process.log_snr(losses[0].t), losses[0].per_sample)
        self.images_seen += size * self.trainer.world_size
        self.train_seconds = time.perf_counter() - self._started
        self.log("train/loss", losses[0].loss, prog_bar=True, batch_size=size, sync_dist=True)
        if len(efforts) > 1:
            self.log_dict({f"train/loss_at_{e:g}": x.per_sample.mean() for e, x in zip(efforts, losses, strict=True)})
        return torch.stack([loss.loss for loss in losses]).sum()

    def losses(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[list[Effort], list[Loss]]:
        """The efforts that a batch trains and their losses: the same ones each time that it is called in a step."""
        key = self.step_key(batch_idx)
        torch.manual_seed(self._mixed(*key))  # dropout draws from the global generator
        efforts = choose(self.effort, self.denoiser.efforts, self.sandwich, self._mixed(2, *key))
        batch = self._drop_labels(batch, key)
        passes = partial(self._pass_generator, key)
        return efforts, sandwich_losses(self.objective, self.denoiser, batch, efforts, self.sandwich, passes)

    def _drop_labels(self, batch: dict[str, Tensor], key: tuple[int, ...]) -> dict[str, Tensor]:
        """The batch with -1, no label, for some of its images."""
        if not self.label_dropout:
            return batch
        label = batch["label"]
        dropped = torch.rand(len(label), generator=self.generator(3, *key), device=self.device) < self.label_dropout
        return batch | {"label": torch.where(dropped, -1, label)}

    def _pass_generator(self, key: tuple[int, ...], index: int) -> torch.Generator:
        """Times and noise of one pass of a step; a step of a single pass is the first."""
        return self.generator(*key, index) if index else self.generator(*key)

    def training_macs(self) -> int:
        """Multiply-adds of training on one image, forward and backward, of all the efforts of a step."""
        return expected_macs(self.denoiser, self.effort, self.sandwich)

    def step_key(self, batch_idx: int) -> tuple[int, ...]:
        """What the random numbers of a batch depend on, beside the seed: the step, and which part of it this is.

        The batches that one process accumulates and those of several processes are parts alike (see `TrainLoader`).
        """
        step, turn = divmod(batch_idx, self.trainer.accumulate_grad_batches)
        return (0, self.global_step, step, turn * self.trainer.world_size + self.global_rank)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the loss by noise level and the images seen as often as the loss."""
        if log_due(self.trainer):
            means = self.noise_bins.means(self.trainer.strategy.reduce)
            metrics = {f"loss_by_noise/{name}": value for name, value in means.items()}
            log_now(self.trainer, metrics | {"images_seen": self.images_seen})
            self.noise_bins.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The objective on held-out images, with the same times and noise every time."""
        loss = self.objective(self.denoiser, batch, self.generator(1, batch_idx, self.global_rank)).loss
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["image"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the recipe and what training has cost so far."""
        checkpoint["denoisezoo"] = {
            "recipe": dict(self.recipe),
            "images_seen": self.images_seen,
            "train_seconds": self.train_seconds,
            "seed": self.seed,
            "skipped": self.skipped,
            "noise_bins": self.noise_bins.sums(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        found = checkpoint.get("denoisezoo", {})
        self.images_seen = int(found.get("images_seen", 0))
        self.train_seconds = float(found.get("train_seconds", 0.0))
        self.skipped = int(found.get("skipped", 0))
        self.noise_bins.load_sums(found.get("noise_bins", {}))
