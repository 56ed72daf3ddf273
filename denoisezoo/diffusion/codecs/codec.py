"""What every codec is: what is diffused in place of pixels, z = E(image), and the way back, image = D(z).

A process, its objective and its samplers see latents only, as if they were images: resolution, channels and noise
levels of a process are those of latents. Images are encoded before the objective sees them and decoded where a walk
ends. Latent diffusion: Rombach et al. 2021, arXiv 2112.10752.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from denoisezoo.errors import UserError
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

CODECS: Registry[type[Codec]] = Registry("codec")

Shape = tuple[int, int, int]
"""(C, H, W)."""


class Posterior(NamedTuple):
    """What an encoder says of images: the Gaussian that their latents are drawn from.

    Attributes:
        mean: (B, C', H', W').
        log_variance: The logarithm of its variance, likewise; None where latents are the mean.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents; without a generator the mean."""
        if generator is None or self.log_variance is None:
            return self.mean
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Codec(Recorded, nn.Module, ABC):
    """A frozen map between images and latents, part of a denoiser: it moves, casts and is saved with it.

    A subclass has `encode`, `decode` and `latent_shape`, and is built from its arguments alone; weights that it has
    then come from the checkpoint. It computes in the type of its weights, or of what it is given if it has none.

    Attributes:
        identity: Whether latents are the pixels themselves, so that there is nothing to compute, price or name.
        lossless: Whether decode(encode(x)) is x for any x, so that samplers that clip images can clip through it.
        from_file: Whether its weights are read from a file that its arguments name and that may be gone where a run is
            loaded: recipes then keep the arguments that `made_of` has by the end of `__init__`.
        license: Licence of its weights; None where it has none, or none is known.
    """

    identity: bool = False
    lossless: bool = False
    from_file: bool = False
    license: str | None = None

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents z (B, C', H', W') of images (B, C, H, W) in [-1, 1].

        Args:
            image: The images, in the type of the weights.
            generator: Source of the noise of a codec that draws z from a posterior; None takes the posterior's mean.
        """

    def posterior(self, image: Tensor) -> Posterior:
        """What latents of images (B, C, H, W) are drawn from; a codec that draws them overrides it.

        `encode` is a draw of it, with the same numbers of the generator.
        """
        return Posterior(self.encode(image))

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W), not clipped, of latents (B, C', H', W')."""

    @abstractmethod
    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """(C', H', W') of the latents of images (C, H, W).

        Raises:
            UserError: It cannot encode such images.
        """

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """(C, H, W) of the images that latents (C', H', W') are decoded to; by default what `decode` makes of zeros.

        Raises:
            UserError: It cannot decode such latents.
        """
        try:
            found = without_weights(self).decode(torch.zeros(1, C, H, W, device="meta", dtype=self.dtype))
        except RuntimeError as error:
            raise UserError(
                f"{self.title} cannot decode latents of {C}x{H}x{W}, which the network makes",
                "give the network the channels and the resolution of latents, or choose another codec",
            ) from error
        _, channels, height, width = found.shape
        return channels, height, width

    def to_latents(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`encode` without gradients, in the type of the weights; latents are of the images' type.

        Raises:
            UserError: See `latent_shape`.
        """
        self.latent_shape(*image.shape[1:])
        with torch.no_grad():
            return self.encode(image.to(self.dtype or image.dtype), generator).to(image.dtype)

    def to_images(self, z: Tensor) -> Tensor:
        """`decode` in the type of the weights; images are of the latents' type. Gradients pass."""
        return self.decode(z.to(self.dtype or z.dtype)).to(z.dtype)

    def to_batch(self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """A batch of data as objectives see it: its "image" encoded, and its "cond", which has the image's size.

        Conditions are encoded to their posterior's mean, as sampling encodes them. A batch with "log_variance" was
        encoded before: its "image" is the mean, and latents are drawn here.
        """
        if self.identity:
            return batch
        if "log_variance" in batch:
            rest = {key: value for key, value in batch.items() if key != "log_variance"}
            return {**rest, "image": Posterior(batch["image"], batch["log_variance"]).draw(generator)}
        latents = {"image": self.to_latents(batch["image"], generator)}
        if "cond" in batch:
            latents["cond"] = self.to_latents(batch["cond"])
        return {**batch, **latents}

    def encode_all(self, images: Tensor, device: torch.device | str, batch_size: int = 128) -> Tensor:
        """Latents (N, C', H', W') of a whole set of images, the posterior's mean, encoded on a device batch by batch.

        They are where the images are.
        """
        if self.identity:
            return images
        parts = [self.to_latents(part.to(device)).to(images.device) for part in images.split(batch_size)]
        return torch.cat(parts)

    def clamp(self, z: Tensor, most: float) -> Tensor:
        """Latents whose images lie within [-most, most]; of a codec that is not lossless, z as it is.

        The latents of an autoencoder have no range of their own, and to decode, clip and encode them again would put
        its losses into every step.
        """
        return self.encode(self.decode(z).clamp(-most, most)) if self.lossless else z

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of its weights; None if it has none."""
        weights = (*self.parameters(), *self.buffers())
        return next((weight.dtype for weight in weights if weight.is_floating_point()), None)

    @property
    def title(self) -> str:
        """What cards call it: its registered name, with the options that tell it from others of that name."""
        return next((name for name, cls in CODECS.items() if cls is type(self)), type(self).__name__)

    def weights_sha256(self) -> str | None:
        """Hash of the names, types, shapes and bytes of its weights as they are; None if it has none."""
        state = self.state_dict()
        found = hashlib.sha256()
        for name in sorted(state):
            value = state[name].detach().cpu().contiguous()
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest() if state else None

    def facts(self) -> dict[str, Any]:
        """What cards say of it: codec, codec_sha256 and codec_license."""
        return {"codec": self.title, "codec_sha256": self.weights_sha256(), "codec_license": self.license}

    def train(self, mode: bool = True) -> Codec:
        """Stay in evaluation mode: a denoiser in training does not change its codec."""
        return super().train(False)


@CODECS.register("pixels")
class Pixels(Codec):
    """No codec: pixels are what is diffused."""

    identity = True
    lossless = True

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The image."""
        return image

    def decode(self, z: Tensor) -> Tensor:
        """The image."""
        return z

    def latent_shape(self, C: int, H: int, W: int) -> Shape:
        """The same."""
        return C, H, W

    def image_shape(self, C: int, H: int, W: int) -> Shape:
        """The same."""
        return C, H, W

    def clamp(self, z: Tensor, most: float) -> Tensor:
        """See `Codec.clamp`."""
        return z.clamp(-most, most)


def without_weights(codec: Codec) -> Codec:
    """A copy on the meta device, of which only shapes are known; weights are not copied on the way."""
    weights = (*codec.parameters(), *codec.buffers())
    memo = {
        id(weight): nn.Parameter(weight.to("meta"), requires_grad=False)
        if isinstance(weight, nn.Parameter)
        else weight.to("meta")
        for weight in weights
    }
    return copy.deepcopy(codec, memo)
