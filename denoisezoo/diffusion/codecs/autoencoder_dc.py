"""The deep compression autoencoder (Chen et al. 2024, arXiv 2410.10733), as diffusers has it."""

from __future__ import annotations

from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS, Posterior
from denoisezoo.diffusion.codecs.frozen_autoencoder import FrozenAutoencoder


@CODECS.register("autoencoder_dc")
class AutoencoderDC(FrozenAutoencoder):
    """Latents without a posterior, at a 32nd to a 128th of the size."""

    diffusers_class = "AutoencoderDC"
    blocks_key = "encoder_block_out_channels"

    def raw_posterior(self, image: Tensor) -> Posterior:
        """See `FrozenAutoencoder.raw_posterior`."""
        return Posterior(self.autoencoder.encode(image).latent)
