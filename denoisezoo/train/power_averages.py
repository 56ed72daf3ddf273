"""Power-function averages kept during training and stored now and then, for averages of any length afterwards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from denoisezoo.errors import UserError
from denoisezoo.tables import human_bytes
from denoisezoo.train.checkpoint import AtomicCheckpointIO
from denoisezoo.train.ema import lerp
from denoisezoo.train.guard import bad_on_device, was_skipped
from denoisezoo.train.power_function import decay, exponent
from denoisezoo.train.sharding import gathered, mine, share_of

FOLDER = "averages"
"""Folder of a run that stored averages lie in."""


class PowerAverages(Callback):
    """Keeps averages of the denoiser's weights and stores them in RUN/averages (EDM2, arXiv 2312.02696, section 3).

    `denoisezoo ema` makes averages of any length from them. Each takes as much memory as the weights do. On the disk
    there are at most `keep` files, evenly spaced over training: when there are more, every second goes, and from
    then on half as many come. A run that goes on from a checkpoint goes on with its averages, bit by bit.

    Args:
        every_n_steps: Steps between stored averages; 0 keeps none.
        sigma_rel: Relative widths of the averages; the paper's two serve all between 0.015 and 0.25.
        keep: Files at most; one more at the end of training.
        dtype: Of the stored numbers; float16 takes half the disk, at an error of about 1e-3 in what is made of them.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        sigma_rel: tuple[float, ...] = (0.05, 0.10),
        keep: int = 64,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> None:
        if every_n_steps < 0 or keep < 2 or not sigma_rel:
            raise UserError(
                f"every_n_steps {every_n_steps}, keep {keep} or sigma_rel {list(sigma_rel)} is out of range",
                "give every_n_steps of at least 0, keep of at least 2, and widths such as 0.05 and 0.1",
            )
        self.every_n_steps, self.keep = every_n_steps, keep
        self.gammas = {float(width): exponent(width) for width in sigma_rel}
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.images = 0
        self._averages: dict[float, list[Tensor]] = {}
        self._weights: list[tuple[str, torch.nn.Parameter]] = []
        self._seen = self._stored_step = -1
        self._found: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The averages, whole, and the images that they have seen; nothing where none are kept."""
        if not self._averages:
            return {}
        named = {str(width): self._named(tensors) for width, tensors in self._averages.items()}
        return {"images": self.images, "averages": gathered(named)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the averages of a checkpoint when training starts."""
        self._found = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the averages, and remove files of steps that are trained again.

        Raises:
            UserError: The run has been trained without them so far, or with averages of other widths.
        """
        if not self.every_n_steps:
            return
        self._seen = self._stored_step = trainer.global_step
        self._weights = [(f"denoiser.{name}", p) for name, p in pl_module.denoiser.named_parameters()]
        found = self._found.get("averages", {})
        if trainer.global_step and set(found) != {str(width) for width in self.gammas}:
            kept = f"averages of widths {', '.join(found)}" if found else "no averages"
            cure = (
                "leave `posthoc.every_n_steps` out" if not found else f"set `posthoc.sigma_rel` to [{', '.join(found)}]"
            )
            raise UserError(f"the run has kept {kept} from its beginning", cure)
        for width in self.gammas if found else ():
            named = found[str(width)]
            self._averages[width] = [share_of(named[name].to(p.device), p.detach()) for name, p in self._weights]
        self.images = int(self._found.get("images", 0))
        self._found = {}
        if trainer.is_global_zero:
            interval = self.interval(trainer.global_step)
            for path in stored(Path(trainer.default_root_dir)):
                if step_of(path) > trainer.global_step or step_of(path) % interval:
                    _remove(path)
            size = torch.finfo(self.dtype).bits // 8 * sum(p.numel() for _, p in self._weights) * len(self.gammas)
            print(f"post-hoc averages: {human_bytes(size)} each, {human_bytes(size * (self.keep + 1))} at most",
                  file=sys.stderr)  # fmt: skip

    def interval(self, step: int) -> int:
        """Steps between the files that are there after so many steps: not more than `keep` of them."""
        interval = self.every_n_steps
        while step // interval > self.keep:
            interval *= 2
        return interval

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the averages after every optimiser step, and store them when it is time."""
        if not self.every_n_steps or trainer.global_step <= self._seen or was_skipped(trainer):
            return
        self._seen, images = trainer.global_step, int(pl_module.images_seen)
        self._update(images, bad_on_device(trainer))
        if trainer.global_step % self.every_n_steps:
            return
        interval, folder = self.interval(trainer.global_step), Path(trainer.default_root_dir)
        if trainer.global_step % interval == 0:
            self._store(trainer, folder)
        for path in stored(folder) if trainer.is_global_zero else ():
            if step_of(path) % interval:
                _remove(path)

    @torch.no_grad()
    def _update(self, images: int, bad: Tensor | None = None) -> None:
        weights = [mine(parameter.detach()) for _, parameter in self._weights]
        for width, gamma in self.gammas.items():
            if width not in self._averages:
                self._averages[width] = [parameter.detach().clone() for _, parameter in self._weights]
            beta = decay(images, images - self.images, gamma)
            averages = [mine(average) for average in self._averages[width]]
            lerp(averages, weights, 1 - beta, bad)
        self.images = images

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store what there is at the end."""
        if self._averages and self._stored_step != trainer.global_step:
            self._store(trainer, Path(trainer.default_root_dir))

    def _named(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        return {name: tensor for (name, _), tensor in zip(self._weights, tensors, strict=True)}

    def _store(self, trainer: Trainer, folder: Path) -> None:
        """Write a file; a disk that is full is warned of, and does not end training."""
        self._stored_step, step = trainer.global_step, trainer.global_step
        whole = gathered({width: self._named(tensors) for width, tensors in self._averages.items()})
        if not trainer.is_global_zero:
            return
        profiles = [
            {
                "sigma_rel": width,
                "gamma": self.gammas[width],
                "weights": {name: tensor.to("cpu", self.dtype) for name, tensor in named.items()},
            }
            for width, named in whole.items()
        ]
        writer = AtomicCheckpointIO(survive=True)
        path = folder / FOLDER / f"step_{step:08d}.avg"
        writer.save_checkpoint({"step": step, "images": self.images, "profiles": profiles}, path)
        if writer.failure is not None:
            print(f"warning: no averages of step {step}: {writer.failure.what}", file=sys.stderr)


def stored(folder: Path) -> list[Path]:
    """Files of stored averages of a run, earliest first."""
    return sorted((folder / FOLDER).glob("step_*.avg"), key=step_of)


def step_of(path: Path) -> int:
    """The step in a file's name; -1 where there is none."""
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdigit() else -1


def _remove(path: Path) -> None:
    AtomicCheckpointIO().remove_checkpoint(path)
