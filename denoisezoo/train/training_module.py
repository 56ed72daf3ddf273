"""The one LightningModule that trains every denoiser. It knows no architecture and no process."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from denoisezoo.archs import FORMAT, compile_network
from denoisezoo.diffusion import NetworkDenoiser, Objective, Step
from denoisezoo.diffusion.capabilities import advance, stages_of
from denoisezoo.errors import ComputationError, UncountableError, UserError
from denoisezoo.evaluation.conditions import check_dropout, drop_labels
from denoisezoo.profiling.trajectory import encoding_macs
from denoisezoo.train.adversary import ADAM, Opponent
from denoisezoo.train.efforts import DDSM, Mode, Passes, Sandwich, check_mode, choose, expected_macs, losses_of
from denoisezoo.train.ema import average_of
from denoisezoo.train.log import Readings, StepNotes, log_due, log_now
from denoisezoo.train.noise_bins import NoiseBins
from denoisezoo.train.optimizer import DEFAULT, OptimizerConfig, follow_schedule, last_step
from denoisezoo.train.resumable import divide_anew
from denoisezoo.train.seeds import seed_default
from denoisezoo.train.sharding import is_sharded, reshard, shard, spoiled, total, unshard, used_alike
from denoisezoo.train.teachers import Loader, begin_with, check_teacher, nothing_loads, teach


class TrainingModule(LightningModule):
    """Trains one denoiser.

    Times, noise and dropout of a step depend on nothing but (seed, step, part of the batch), so a resumed run draws
    what an unbroken one would have drawn.

    Args:
        denoiser: What is trained, in place.
        objective: Which noise levels count, and how much; or what else training makes small.
        name: What results call the network.
        family: Family of the network.
        optimizer: Optimiser and learning rate.
        channels_last: Keep weights and activations in channels-last layout; null is what pays on the device.
        compile: Compile the backbone in place; null is on a GPU, for long runs.
        effort: "full" trains the full network; "random" draws one of its efforts for each step; "sandwich" trains
            several in each step.
        sandwich: Which ones, and what they share.
        label_dropout: Share of the images that are trained without their label, as classifier-free guidance needs.
        on_failure: What a computation that cannot go on, such as an ODE that has become too stiff, does to training:
            "stop" ends it, and the last checkpoint stays; "skip" goes on with the next batch, and logs how many; of
            several processes all skip the step.
        seed: Seed of times and noise; the trainer's unless given.
        adversary_optimizer: Optimiser of the second network of an adversarial objective.
        start_from: Run whose averaged weights training begins with, or FORMAT:PATH of a checkpoint of other code; fresh
            weights unless given. A network with a second time goes on from one without.
        codec: What is diffused in place of pixels, a class or a name with options such as "haar:levels=2"; pixels
            unless given. All losses are those of latents then.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        *,
        name: str,
        family: str,
        optimizer: OptimizerConfig = DEFAULT,
        channels_last: bool | None = None,
        compile: bool | None = None,
        effort: Mode = "full",
        sandwich: Sandwich = DDSM,
        label_dropout: float = 0.0,
        on_failure: Literal["stop", "skip"] = "stop",
        seed: int | None = None,
        adversary_optimizer: OptimizerConfig = ADAM,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.family, self.denoiser = name, family, denoiser
        backbone = denoiser.backbone
        self.channels_last, self.compiles = channels_last, compile
        if channels_last is not False:
            backbone.to(memory_format=torch.channels_last)
        if compile:
            compile_network(backbone)  # in place: keys of the checkpoint stay as they are
        self.objective, self.optimizer_config = objective, optimizer
        objective.check(denoiser)
        self.opponents: dict[str, Opponent] = {}
        self._partners: list[torch.nn.Module] = []
        self.frozen: list[str] = []
        self.start_from = start_from
        self.teacher_sha256: str | None = None
        self.adversary_config = adversary_optimizer
        check_mode(effort, backbone.efforts, sandwich, name)
        self.effort, self.sandwich = effort, sandwich
        check_dropout(label_dropout, backbone.spec.num_classes, name)
        self.label_dropout = label_dropout
        self.on_failure, self.skipped, self.failure = on_failure, 0, ""
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.noise_bins = NoiseBins()
        at_efforts = [f"train/loss_at_{effort:g}" for effort in backbone.efforts] if self.effort == "sandwich" else []
        self.notes = StepNotes(["train/loss", *(f"train/{name}_loss" for name in objective.opponents), *at_efforts])
        self.readings = Readings()
        self.images_seen, self.train_seconds = 0, 0.0
        self.encoded_before = 0  # images; batches hold their latents then
        self.recipe: Mapping[str, Any] = {}  # resolved, kept in every checkpoint: that alone can be sampled
        self.data_known: Mapping[str, Any] = {}  # what tells the data from others, and where training began; likewise
        self._started, self._pace = 0.0, (0, 0.0)  # of the clock; steps and seconds that all processes know
        self._shadow: tuple[NetworkDenoiser, ...] = ()  # no child of the module
        self._average: tuple[NetworkDenoiser, ...] = ()  # likewise

    @property
    def counted(self) -> NetworkDenoiser:
        """The denoiser, or where its weights are divided one without weights: it can be copied and counted."""
        return self._shadow[0] if self._shadow else self.denoiser

    @property
    def chooses(self) -> bool:
        """Whether steps choose which weights they train: efforts, or the networks of stages."""
        return self.effort == "random" or len(stages_of(self.denoiser.process)) > 1

    def configure_model(self) -> None:
        """Divide the weights among processes where the strategy does so; elsewhere nothing."""
        if self.device_mesh is None or is_sharded(self.denoiser.backbone):
            return
        if self._partners or self.frozen:
            raise UserError(
                "fsdp2 divides one network, and this objective has another beside it", "use `trainer.strategy=ddp`"
            )
        shadow = copy.deepcopy(self.denoiser)
        shadow.to("meta")
        self._shadow = (shadow,)
        shard(self.denoiser.backbone, self.device_mesh["data_parallel"])

    def prepare(self, data: Any, folder: Path, load: Loader = nothing_loads, fresh: bool = True) -> None:
        """Let the objective make ready what it needs, and take in the networks that are there for training alone.

        Args:
            data: The data module, set up.
            folder: The run folder.
            load: Reads the runs that training begins with and learns from.
            fresh: Whether training begins, and does not go on from a checkpoint.
        """
        objective = self.objective
        if fresh and self.start_from is not None:
            begin_with(self.denoiser.backbone, load(self.start_from).denoiser.backbone, self.start_from)
        self.teacher_sha256 = teach(objective, load)
        objective.setup(self.denoiser, data, folder)
        self._ddp_params_and_buffers_to_ignore: list[str] = []
        for name, network in objective.modules(self.denoiser).items():
            setattr(self, name, network)  # a child of the module: moved, saved and restored as the denoiser is
            if name in objective.opponents:
                self.opponents[name] = Opponent(network, self.adversary_config)
            elif any(parameter.requires_grad for parameter in network.parameters()):
                self._partners.append(network)
                continue
            else:
                self.frozen.append(name)
            # Gradients of theirs are averaged by hand; DDP would wait for them in the denoiser's backward.
            self._ddp_params_and_buffers_to_ignore += [f"{name}.{key}" for key in network.state_dict()]

    def configure_optimizers(self) -> Any:
        """The optimiser with its schedule by step."""
        trained = torch.nn.ModuleList([self.denoiser, *self._partners]) if self._partners else self.denoiser
        optimizer = self.optimizer_config.build(trained)  # frozen weights, those of the codec, are left out
        optimizer.register_step_post_hook(self._after_step)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Let networks normalise their weights, unless the guard has taken the gradients away."""
        if any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]):
            for network in (self.denoiser.backbone, *self._partners):
                if (after_step := getattr(network, "after_step", None)) is not None:
                    after_step()

    def _learning_rate(self, step: int) -> float:
        return self.optimizer_config.factor(step, last_step(self.trainer, step, self.train_seconds, self._pace))

    def generator(self, *key: int) -> torch.Generator:
        """A generator on the module's device whose numbers depend on the seed and `key` alone."""
        return torch.Generator(self.device).manual_seed(self._mixed(*key))

    def _mixed(self, *key: int) -> int:
        return int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])

    def on_train_start(self) -> None:
        """Start the clock, and take to the device what Lightning does not: it is no part of the module."""
        self.noise_bins.to(self.device)
        self.objective.to(self.device)
        if self.objective.needs_average:
            self._average = (average_of(self.trainer, self),)
        for opponent in self.opponents.values():
            opponent.start(self.trainer)
        self._pace = (self.global_step, self.train_seconds)
        follow_schedule(self.lr_schedulers(), self._learning_rate)
        self._started = time.perf_counter() - self.train_seconds

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The objective of one batch; None skips a batch that could not be computed."""
        size = len(batch["image"])
        for denoiser in (self.denoiser, *self._average):
            unshard(denoiser.backbone)
        try:
            advance(self.denoiser.process, self.global_step)
            self.objective.advance(self.global_step)
            latents = self.encoded(batch, batch_idx)
            for name, opponent in self.opponents.items():
                self._oppose(name, opponent, latents, batch_idx)
            passes = self.passes(latents, batch_idx)
            losses = losses_of(self.objective, passes)
        except ComputationError as error:
            if self.on_failure == "stop":
                raise
            self.failure = error.what
            return self._missed(size, batch_idx)
        finally:
            for average in self._average:
                reshard(average.backbone)
        self.noise_bins.add(self.denoiser.process.log_snr(losses[0].t), losses[0].per_sample)
        self.images_seen += size * self.trainer.world_size
        self.train_seconds = time.perf_counter() - self._started
        self.notes.add(self.trainer, "train/loss", losses[0].loss)
        for effort, loss in zip(passes.efforts, losses, strict=True) if len(losses) > 1 else ():
            self.notes.add(self.trainer, f"train/loss_at_{effort:g}", loss.per_sample.mean())
        return self._with_others(torch.stack([loss.loss for loss in losses]).sum())

    def _missed(self, size: int, batch_idx: int) -> Tensor | None:
        """Count a batch that could not be computed as other processes do theirs; what the step returns for it."""
        for opponent in self.opponents.values():
            if self._ends_step(batch_idx):
                opponent.send(self.trainer)
            opponent.forget()
        if self.trainer.world_size > 1 or is_sharded(self.denoiser.backbone):
            self.noise_bins.latest = None
            self.images_seen += size * self.trainer.world_size
            self.notes.add(self.trainer, "train/loss", torch.full((), math.nan, device=self.device))
            return self._with_others(None)
        self.skipped += 1
        return None

    def _with_others(self, loss: Tensor | None) -> Tensor:
        """The loss, or if there is none a NaN, for which `Guard` skips the step on all processes: they wait for ours.

        Under FSDP all must have gradients of the same weights, so that a failure of one is that of all.
        """
        if not is_sharded(self.denoiser.backbone):
            return math.nan * total(self.denoiser) if loss is None else loss
        if self.on_failure == "skip":
            fine = torch.tensor(float(loss is not None), device=self.device)
            if self.trainer.strategy.reduce(fine, reduce_op="min") == 0:
                return spoiled(self.denoiser.backbone)
        assert loss is not None, "only under on_failure skip"
        return used_alike(self.denoiser.backbone, loss) if self.chooses else loss

    def _ends_step(self, batch_idx: int) -> bool:
        """Whether a batch is the last one of its step."""
        return (batch_idx + 1) % int(self.trainer.accumulate_grad_batches) == 0

    def _oppose(self, name: str, opponent: Opponent, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """An opponent's gradient of one batch."""
        key = (3, *self.step_key(batch_idx))
        seed_default(self._mixed(*key))
        opponent.trains(True)
        average = next(iter(self._average), None)
        step = Step(self.denoiser, batch, self.generator(*key), number=self.global_step, average=average)
        loss = self.objective.opposing_loss(name, step)
        opponent.backward(self.trainer, loss)
        opponent.trains(False)
        if self._ends_step(batch_idx):
            opponent.send(self.trainer)
        self.notes.add(self.trainer, f"train/{name}_loss", loss)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """The denoiser's step, then those of its opponents."""
        for opponent in self.opponents.values():
            if optimizer_closure is not None:
                optimizer_closure = partial(opponent.close, self.trainer, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Lightning would keep the gradients until the next backward pass, whose forward pass needs the memory.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        for opponent in self.opponents.values():
            opponent.step(self.trainer, last_step(self.trainer, self.global_step, self.train_seconds, self._pace))

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Nothing: `optimizer_step` has done it."""

    def passes(self, batch: Mapping[str, Tensor], batch_idx: int) -> Passes:
        """What a batch trains: the same efforts, times and noise each time that it is called in a step.

        Args:
            batch: From `encoded`.
            batch_idx: Its index in the epoch.
        """
        key = self.step_key(batch_idx)
        seed_default(self._mixed(*key))  # dropout draws from the default generators
        efforts = choose(self.effort, self.denoiser.efforts, self.sandwich, self._mixed(2, *key))
        if self.label_dropout:
            batch = {**batch, "label": drop_labels(batch["label"], self.label_dropout, self.generator(4, *key))}
        step = Step(self.denoiser, batch, number=self.global_step, average=next(iter(self._average), None))
        return Passes(step, efforts, self.sandwich, lambda n: self.generator(*key, *([n] if n else [])))

    def encoded(self, batch: Mapping[str, Tensor], batch_idx: int) -> Mapping[str, Tensor]:
        """A batch of data as `passes` takes it: in latents, the same ones each time that it is called in a step."""
        return self.denoiser.codec.to_batch(batch, self.generator(5, *self.step_key(batch_idx)))

    def training_macs(self) -> int | None:
        """Multiply-adds of training on one image, forward and backward, of all the efforts and networks of a step.

        None where they depend on the data, as with an adaptive solver.
        """
        try:
            macs = expected_macs(self.counted, self.effort, self.sandwich, self.objective)
        except UncountableError:
            return None
        return macs - encoding_macs(self.counted) if self.encoded_before else macs

    def step_key(self, batch_idx: int) -> tuple[int, ...]:
        """What the random numbers of a batch depend on, beside the seed: the step, and which part of it this is.

        The batches that one process accumulates and those of several processes are parts alike (see `TrainLoader`).
        """
        step, turn = divmod(batch_idx, self.trainer.accumulate_grad_batches)
        return (0, self.global_step, step, turn * self.trainer.world_size + self.global_rank)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the losses, also by noise level, and the images seen."""
        if log_due(self.trainer):
            bins = self.trainer.strategy.reduce(self.noise_bins.stacked(), reduce_op="sum")
            self.readings.add(bins, partial(NoiseBins.means, prefix="loss_by_noise/"))
            self.readings.add(self.notes.sums(self.trainer, self.device), self.notes.means)
            metrics = self.readings.read() | {"images_seen": self.images_seen, "epoch": self.current_epoch}
            log_now(self.trainer, metrics, shown={"train/loss"} & metrics.keys())
            self.noise_bins.reset()
            self._pace = (self.global_step, self.trainer.strategy.broadcast(self.train_seconds))

    def on_validation_epoch_start(self) -> None:
        """Make divided weights whole: processes may have different numbers of batches."""
        unshard(self.denoiser.backbone)

    def on_validation_epoch_end(self) -> None:
        """Divide them again."""
        reshard(self.denoiser.backbone)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The objective on held-out images, with the same times and noise every time."""
        self.objective.advance(batch_idx)  # the step would make each validation another one
        generator = self.generator(1, batch_idx, self.global_rank)
        average = self.denoiser if self.objective.needs_average else None  # it has the averaged weights here
        latents = self.denoiser.codec.to_batch(batch, generator)
        loss = self.objective(Step(self.denoiser, latents, generator, number=self.global_step, average=average)).loss
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["image"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the recipe and what training has cost so far."""
        checkpoint["denoisezoo"] = {
            "recipe": dict(self.recipe),
            "data": dict(self.data_known),
            "format": FORMAT,
            "images_seen": self.images_seen,
            "train_seconds": self.train_seconds,
            "seed": self.seed,
            "skipped": self.skipped,
            "parts": self.trainer.world_size * self.trainer.accumulate_grad_batches,
            "noise_bins": self.noise_bins.sums(),
            "perceptual": self.objective.perceptual_title,
            "teacher_sha256": self.teacher_sha256,
        }
        for name, opponent in self.opponents.items():
            checkpoint["denoisezoo"][f"{name}_optimizer"] = opponent.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        divide_anew(checkpoint, self.trainer.accumulate_grad_batches)
        found = checkpoint.get("denoisezoo", {})
        check_teacher(found, self.teacher_sha256)
        self.images_seen = int(found.get("images_seen", 0))
        self.train_seconds = float(found.get("train_seconds", 0.0))
        self.skipped = int(found.get("skipped", 0))
        self.noise_bins.load_sums(found.get("noise_bins", {}))
        for name, opponent in self.opponents.items():
            opponent.load_state_dict(found.get(f"{name}_optimizer"))
