"""The tiny autoencoder, distilled to the latents of a larger one (https://github.com/madebyollin/taesd), as diffusers
has it: decoding costs a small part of what the larger decoder takes.
"""

from __future__ import annotations

from torch import Tensor

from denoisezoo.diffusion.codecs.codec import CODECS, Posterior
from denoisezoo.diffusion.codecs.frozen_autoencoder import FrozenAutoencoder


@CODECS.register("autoencoder_tiny")
class AutoencoderTiny(FrozenAutoencoder):
    """Latents without a posterior; its own scale is 1, since it was distilled to scaled latents."""

    diffusers_class = "AutoencoderTiny"
    blocks_key = "encoder_block_out_channels"

    def raw_posterior(self, image: Tensor) -> Posterior:
        """See `FrozenAutoencoder.raw_posterior`."""
        return Posterior(self.autoencoder.encode(image).latents)
