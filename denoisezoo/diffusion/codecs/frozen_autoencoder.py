"""Autoencoders of diffusers as codecs: read from a folder, frozen, their latents brought to a scale that suits.

Diffusers keeps the scale beside the weights and leaves it to each pipeline; here it is part of the codec.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from denoisezoo.archs.backbone import reads_weights
from denoisezoo.diffusion.codecs.codec import CODECS, Codec, Posterior, Shape
from denoisezoo.errors import UserError
from denoisezoo.files import local_path

CONFIG, SUBFOLDER, WEIGHTS = "config.json", "vae", "diffusion_pytorch_model.safetensors"


class FrozenAutoencoder(Codec):
    """Base of the autoencoders of diffusers: z = (raw - shift) scale, of each channel its own where they are given so.

    Args:
        path: Folder that `save_pretrained` has written, or a pipeline's with a folder `vae`; nothing is downloaded.
        scale: What raw latents are multiplied by; that of the folder's configuration unless given.
        shift: What is taken from them before; likewise.
        mean: Mean of each channel of raw latents, in the place of `shift`.
        std: Their standard deviations: latents have `target_std` then, in the place of `scale`.
        target_std: 0.5 is EDM2's, the sigma_data of its networks (arXiv 2312.02696, appendix B).
        posterior: Where the encoder has one: whether latents are drawn from it in training ("sample"), or are its mean.
        tiled: Encode and decode large images in overlapping tiles, so that memory does not grow with their size; what
            comes of that differs a little along the seams.
        batch_size: Images at a time.
        config: Arguments of the autoencoder; those of the folder unless given. A run keeps them here: with its weights
            they make the codec again where the folder is gone.
        license: Licence of the weights; what the folder's README says unless given.

    Raises:
        UserError: The folder holds no such autoencoder, or a scale is not a finite number other than 0.
    """

    from_file = True
    diffusers_class: ClassVar[str]
    """Its name among diffusers' classes."""
    blocks_key: ClassVar[str]
    """Argument that has a number for each resolution of the encoder."""

    def __init__(
        self,
        path: str | None = None,
        *,
        scale: float | None = None,
        shift: float | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        target_std: float = 0.5,
        posterior: Literal["sample", "mean"] = "sample",
        tiled: bool = False,
        batch_size: int = 16,
        config: dict[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}", "give a whole number of at least 1")
        self.batch_size, self.draws = batch_size, posterior == "sample"
        if path is not None and (config is None or reads_weights()):
            folder = find_folder(path, self.diffusers_class)
            self.autoencoder = read_autoencoder(folder, self.diffusers_class)
            license = license or licence_of(folder)
        elif config is not None:
            self.autoencoder = diffusers_class(self.diffusers_class)(**config)
        else:
            raise UserError(f"{self.title} has no weights", "give path, the folder of an autoencoder of diffusers")
        self.license = license
        found = self.autoencoder.config
        known = inspect.signature(type(self.autoencoder).__init__).parameters
        config = json.loads(json.dumps({key: value for key, value in found.items() if key in known}))
        self.made_of = {**self.made_of, "config": config, "license": license}
        self.channels, self.latent_channels = int(found["in_channels"]), int(found["latent_channels"])
        self.factor = 2 ** (len(found[self.blocks_key]) - 1)
        if mean is None and std is None and scale is None and shift is None:
            mean, std = found.get("latents_mean"), found.get("latents_std")
            target_std = found["scaling_factor"] if std is not None else target_std
        scale = found.get("scaling_factor", 1.0) if scale is None else scale
        shift = (found.get("shift_factor") or 0.0) if shift is None else shift
        self.register_buffer("shift", self._per_channel("mean", mean, "shift", [shift]))
        by_std = None if std is None else [target_std / one if one else 0.0 for one in std]
        self.register_buffer("scale", self._per_channel("std", by_std, "scale", [scale]))
        if 0 in ([scale] if by_std is None else by_std):
            raise UserError(
                f"the scale of the latents of {self.title} is 0" + (" or infinite" if std else ""),
                "give scale, or std, finite numbers other than 0",
            )
        if tiled:
            self.autoencoder.enable_tiling()

    shift: Tensor
    scale: Tensor

    def _per_channel(self, name: str, values: Sequence[float] | None, other: str, number: list[float]) -> Tensor:
        """Numbers (C', 1, 1) of the channels, or one for all of them (1, 1, 1)."""
        if values is not None and len(values) != self.latent_channels:
            what = f"{name} has {len(values)} numbers, and latents of {self.title} have {self.latent_channels} channels"
            raise UserError(what, f"give one for each channel, or {other} for all")
        numbers = number if values is None else list(values)
        if not all(math.isfinite(value) for value in numbers):
            raise UserError(f"{other if values is None else name} is {numbers}", "give finite numbers")
        return torch.tensor(numbers).reshape(-1, 1, 1)

    @abstractmethod
    def raw_posterior(self, image: Tensor) -> Posterior:
        """What the autoencoder's own encoder says of images (B, C, H, W)."""

    def posterior(self, image: Tensor) -> Posterior:
        """See `Codec.posterior`."""
        parts = [self.raw_posterior(part) for part in image.split(self.batch_size)]
        mean = (torch.cat([part.mean for part in parts]) - self.shift) * self.scale
        log_variances = [part.log_variance for part in parts if part.log_variance is not None]
        if not log_variances or not self.draws:
            return Posterior(mean)
        return Posterior(mean, torch.cat(log_variances) + 2 * self.scale.abs().log())

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C', H', W')."""
        return self.posterior(image).draw(generator)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W)."""
        raw = z / self.scale + self.shift
        return torch.cat([self.autoencoder.decode(part).sample for part in raw.split(self.batch_size)])

    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """(C', H / f, W / f).

        Raises:
            UserError: Other channels, or a size that is no multiple of f.
        """
        if self.channels != C:
            what = f"codec {self.title} encodes images of {self.channels} channels, not {C}"
            raise UserError(what, "give such images, or another autoencoder")
        if H % self.factor or W % self.factor:
            what = f"codec {self.title} cannot divide images of {H}x{W} by {self.factor}"
            raise UserError(what, f"use multiples of {self.factor}")
        return self.latent_channels, H // self.factor, W // self.factor

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """(3, f H, f W), or as many channels as the autoencoder's images have.

        Raises:
            UserError: Other channels than those of its latents.
        """
        if self.latent_channels != C:
            what = f"codec {self.title} has latents of {self.latent_channels} channels, and the network takes {C}"
            raise UserError(what, f"give the network {self.latent_channels} channels, or choose another autoencoder")
        return self.channels, H * self.factor, W * self.factor


def diffusers_class(name: str) -> Callable[..., Any]:
    """A class of diffusers, which is imported here."""
    import diffusers

    found: Callable[..., Any] = getattr(diffusers, name)
    return found


def find_folder(path: str, name: str) -> Path:
    """The folder with the configuration of an autoencoder of the class `name`.

    Raises:
        UserError: There is none, or it is of something else.
    """
    folder = local_path(path)
    if not (folder / CONFIG).is_file() and (folder / SUBFOLDER / CONFIG).is_file():
        folder = folder / SUBFOLDER
    cure = f"give a folder that save_pretrained of diffusers' {name} has written"
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = content["_class_name"]
    except FileNotFoundError:
        what = "holds no " + CONFIG if folder.is_dir() else "is no folder"
        raise UserError(f"{folder} {what}", cure) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG} is no configuration of diffusers", cure) from error
    if found != name:
        others = {getattr(cls, "diffusers_class", None): title for title, cls in CODECS.items()}
        raise UserError(
            f"{folder} holds a {found!s:.60}, not {name}",
            f"use the codec {others[found]}" if found in others else cure,
        )
    return folder


def read_autoencoder(folder: Path, name: str) -> Any:
    """An autoencoder of diffusers with the weights of a folder, in float32.

    Raises:
        UserError: They are missing or damaged, or of other sizes than the configuration says.
    """
    from diffusers.utils import logging

    cls: Any = diffusers_class(name)
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # of keys that some version wrote and none reads
    try:
        found, problems = cls.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # whatever its classes make of a configuration, and its files of damage
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        cure = f"write it again with save_pretrained: {CONFIG} and {WEIGHTS}"
        raise UserError(f"the autoencoder in {folder} cannot be read ({reason})", cure) from error
    finally:
        logging.set_verbosity(level)
    if wrong := [*problems["missing_keys"], *problems["unexpected_keys"], *problems["mismatched_keys"]]:
        what = f"the weights in {folder} do not fit their configuration: {wrong[0]} differs"
        raise UserError(what, f"write {CONFIG} and {WEIGHTS} again, with one save_pretrained")
    return found.float()


def licence_of(folder: Path) -> str | None:
    """What the model card in a folder, or in that of the pipeline around it, says of the licence."""
    for place in (folder, *([folder.parent] if folder.name == SUBFOLDER else [])):
        card = place / "README.md"
        if card.is_file() and (found := re.search(r"(?m)^license:\s*(\S+)", card.read_text("utf-8", "replace"))):
            return found[1]
    return None
