"""The variational autoencoder of latent diffusion (Rombach et al. 2021, arXiv 2112.10752), as diffusers has it."""

from __future__ import annotations

from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS, Posterior
from denoisezoo.diffusion.codecs.frozen_autoencoder import FrozenAutoencoder


@CODECS.register("autoencoder_kl")
class AutoencoderKL(FrozenAutoencoder):
    """Latents of a Gaussian posterior; Stable Diffusion's have 4 channels, an eighth of the size, and scale 0.18215.

    EDM2's networks take the same latents with mean 5.81, 3.25, 0.12, -2.15 and std 4.17, 4.62, 3.71, 3.28.
    """

    diffusers_class = "AutoencoderKL"
    blocks_key = "block_out_channels"

    def raw_posterior(self, image: Tensor) -> Posterior:
        """See `FrozenAutoencoder.raw_posterior`."""
        found = self.autoencoder.encode(image).latent_dist
        return Posterior(found.mean, found.logvar)
