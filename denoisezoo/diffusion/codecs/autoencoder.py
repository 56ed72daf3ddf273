"""An autoencoder that was trained here as a codec: read from its run, frozen, its latents brought to unit variance."""

from __future__ import annotations

import math
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from denoisezoo.archs.backbone import Backbone, reads_weights
from denoisezoo.archs.encoding import Encoding
from denoisezoo.archs.named import build_network, describe_network
from denoisezoo.checkpoint_files import newest_checkpoint, read_checkpoint
from denoisezoo.diffusion.codecs.codec import CODECS, Codec, Posterior, Shape
from denoisezoo.errors import UserError
from denoisezoo.files import local_path
from denoisezoo.plugins import check_trusted

OWN = "denoiser.backbone."
"""What the names of a network's weights begin with in a checkpoint."""


@CODECS.register("autoencoder")
class Autoencoder(Codec):
    """z = std (raw - mean) / spread, of each channel its own mean and spread, which its training has measured.

    Args:
        path: The run of an autoencoder, its folder or a checkpoint; the averaged weights are taken.
        std: Standard deviation that latents have over the training images; sigma_data of the denoiser to come.
        posterior: Where the encoder has one: whether latents are drawn from it in training ("sample"), or are its mean.
        batch_size: Images at a time.
        config: What the network is made of; that of the run unless given. A run keeps it here: with its weights it
            makes the codec again where `path` is gone.

    Raises:
        UserError: There is no such run, it is damaged or no autoencoder's, or a channel of its latents is constant.
    """

    from_file = True

    def __init__(
        self,
        path: str | None = None,
        *,
        std: float = 1.0,
        posterior: Literal["sample", "mean"] = "sample",
        batch_size: int = 256,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}", "give a whole number of at least 1")
        if not 0 < std < math.inf:
            raise UserError(f"std is {std}, and latents are divided by it", "give a positive number, such as 1")
        self.std, self.draws, self.batch_size = std, posterior == "sample", batch_size
        if path is not None and (config is None or reads_weights()):
            network, config = read_network(path)
        elif config is not None:
            network = network_of(config, "the codec")
        else:
            raise UserError(f"{self.title} has no weights", "give path, the run of an autoencoder")
        self.network = network.requires_grad_(False).eval()
        self.made_of = {**self.made_of, "config": config}

    network: Backbone

    @classmethod
    def around(cls, network: Backbone) -> Self:
        """The codec of an autoencoder that is there; it is frozen.

        Raises:
            UserError: It is no autoencoder.
        """
        encoding_of(network, "the codec")
        with torch.device("meta"):
            codec = cls(config=describe_network(network))
        codec.network = network.requires_grad_(False).eval()
        return codec

    @property
    def _autoencoder(self) -> Encoding:
        return cast(Encoding, self.network)

    def posterior(self, image: Tensor) -> Posterior:
        """See `Codec.posterior`."""
        parts = [self._autoencoder.encode(part) for part in image.split(self.batch_size)]
        scale = self.std / self._autoencoder.latent_std
        mean = (torch.cat([mean for mean, _ in parts]) - self._autoencoder.latent_mean) * scale
        log_variances = [log_variance for _, log_variance in parts if log_variance is not None]
        if not log_variances or not self.draws:
            return Posterior(mean)
        return Posterior(mean, torch.cat(log_variances) + 2 * scale.log())

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C', H / f, W / f)."""
        return self.posterior(image).draw(generator)

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W)."""
        raw = z * (self._autoencoder.latent_std / self.std) + self._autoencoder.latent_mean
        return torch.cat([self._autoencoder.decode(part) for part in raw.split(self.batch_size)])

    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """(C', H / f, W / f).

        Raises:
            UserError: Other channels, or a size that is no multiple of f.
        """
        channels, f = self.network.spec.in_channels, self._autoencoder.factor
        if channels != C:
            what = f"codec {self.title} encodes images of {channels} channels, not {C}"
            raise UserError(what, "give such images, or another autoencoder")
        if H % f or W % f:
            raise UserError(f"codec {self.title} cannot divide images of {H}x{W} by {f}", f"use multiples of {f}")
        return self._autoencoder.latent_channels, H // f, W // f

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """(C, f H, f W), with as many channels as the autoencoder's images.

        Raises:
            UserError: Other channels than those of its latents.
        """
        if (channels := self._autoencoder.latent_channels) != C:
            what = f"codec {self.title} has latents of {channels} channels, and the network takes {C}"
            raise UserError(what, f"give the network {channels} channels, or choose another autoencoder")
        return self.network.spec.in_channels, H * self._autoencoder.factor, W * self._autoencoder.factor

    @property
    def title(self) -> str:
        """Its name, with the options that its latents depend on, where they are others than usual."""
        options = [f"std={self.std:g}"] if self.std != 1 else []
        options += [] if self.draws else ["posterior=mean"]
        return super().title + (":" + ",".join(options) if options else "")


def read_network(path: str) -> tuple[Backbone, dict[str, Any]]:
    """The network of the run of an autoencoder, with its averaged weights, and what it is made of.

    Raises:
        UserError: There is no such run, it is damaged or of something else, or its latents have a constant channel.
    """
    place = local_path(path)
    file = place if place.is_file() else newest_checkpoint(place)
    if file is None:
        what = "holds no run" if place.is_dir() else "is no folder of a run"
        raise UserError(f"{path} {what}", "give the run of an autoencoder, which `denoisezoo train` has written")
    content = read_checkpoint(file)
    model = content["denoisezoo"]["recipe"]["model"]
    config = {"denoiser": str(model.get("denoiser")), "network": dict(model.get("network") or {})}
    network = network_of(config, path)
    state = {key.removeprefix(OWN): value for key, value in content["state_dict"].items() if key.startswith(OWN)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        cure = "use the version of denoisezoo that wrote it"
        raise UserError(f"the weights in {file} do not fit: {reason}", cure) from error
    spread = encoding_of(network, path).latent_std
    if len(constant := (~(spread.isfinite() & (spread > 0))).flatten().nonzero()):
        what = f"channel {int(constant[0])} of the latents of {path} is constant, and cannot be scaled by 1 / 0"
        raise UserError(what, "train the autoencoder with fewer latent_channels, or a smaller objective.kl")
    return network, config


def network_of(config: dict[str, Any], what: str) -> Backbone:
    """A fresh autoencoder of a configuration, "denoiser" and "network".

    Raises:
        UserError: It is of something else, or of a package that is not trusted.
    """
    name = config.get("denoiser", "")
    if "." in name:
        check_trusted(name.rpartition(".")[0], f"the autoencoder of {what} is the class {name}")
    network, _ = build_network(name, config.get("network") or {})
    encoding_of(network, what)
    return network


def encoding_of(network: Backbone, what: str) -> Encoding:
    """A network as an autoencoder.

    Raises:
        UserError: It is none.
    """
    if not isinstance(network, Encoding):
        raise UserError(f"{what} holds a {type(network).__name__}, which is no autoencoder", "give one's run")
    return network
