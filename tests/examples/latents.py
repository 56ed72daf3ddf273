"""A codec of another package: diffusion on the latents of a small convolutional autoencoder.

    denoisezoo train --config digits/ddpm --imports "[latents]" --model.codec toy_autoencoder \
        --model.network.in_channels 4 --model.network.out_channels 4 --model.network.resolution 8
    denoisezoo sample runs/digits/ddpm --trust latents

From Python a codec that is there, such as a fitted one, is given to the denoiser:

    codec = ToyAutoencoder().fit(images)
    denoiser = dz.create_denoiser("ddpm_digits", codec=codec, in_channels=4, out_channels=4, resolution=8)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo import UserError
from denoisezoo.diffusion import CODECS, Codec, Posterior


@CODECS.register("toy_autoencoder")
class ToyAutoencoder(Codec):
    """Latents of half the size, drawn from a Gaussian posterior as those of a variational autoencoder are.

    Args:
        channels: Channels of the images.
        latent_channels: Channels of the latents.
        width: Channels in between.
        posterior_std: Standard deviation of the posterior.
        seed: Seed of the first weights, which are random.

    Raises:
        UserError: A number that makes no network.
    """

    def __init__(
        self, channels: int = 1, latent_channels: int = 4, width: int = 8, posterior_std: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        if min(channels, latent_channels, width) < 1:
            raise UserError("channels, latent_channels or width is below 1", "give whole numbers of at least 1")
        self.channels, self.latent_channels, self.posterior_std = channels, latent_channels, posterior_std
        with torch.random.fork_rng(devices=[]):  # the same weights whoever drew random numbers before
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, latent_channels, 2, stride=2)
            )
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(latent_channels, width, 2, stride=2),
                nn.SiLU(),
                nn.Conv2d(width, channels, 3, padding=1),
            )

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (B, C', H / 2, W / 2): the posterior's mean, or a draw."""
        mean: Tensor = self.encoder(image)
        if generator is None:
            return mean
        return mean + self.posterior_std * torch.empty_like(mean).normal_(generator=generator)

    def posterior(self, image: Tensor) -> Posterior:
        """The mean, and the same variance everywhere."""
        mean = self.encode(image)
        return Posterior(mean, torch.full_like(mean, 2 * math.log(self.posterior_std)))

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W)."""
        image: Tensor = self.decoder(z)
        return image

    def latent_shape(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        """(C', H / 2, W / 2).

        Raises:
            UserError: Other channels, or an odd size.
        """
        if self.channels != C:
            raise UserError(f"{self.title} encodes images of {self.channels} channels, not {C}", f"give channels {C}")
        if H % 2 or W % 2:
            raise UserError(f"{self.title} cannot halve images of {H}x{W}", "give images of even height and width")
        return self.latent_channels, H // 2, W // 2

    def fit(self, images: Tensor, steps: int = 200) -> ToyAutoencoder:
        """Fit the weights to reconstruct images (N, C, H, W) in [-1, 1], before they are frozen in a denoiser."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(self(images), images).backward()
            optimizer.step()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruction of images (B, C, H, W)."""
        return self.decode(self.encode(image))
