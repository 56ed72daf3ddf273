"""A network from elsewhere: two U-Nets of diffusers as one backbone with two efforts, used without any recipe.

The small one is for the noisy part of a walk and the large one for the rest, or the other way round: which, a search
finds (T-Stitch, arXiv 2402.14167, with a plan in place of one threshold).

    denoiser = dz.create_denoiser(ForeignUNets(small, large), dz.diffusion.VPDiscrete())
    denoiser.sample(16), dz.profile(denoiser, counts_only=True)
    dz.evaluate(denoiser, dz.data.Digits()), dz.search(denoiser, budget=0.6, data=dz.data.Digits())
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import denoisezoo as dz
from denoisezoo.diffusion import NOTHING


class ForeignUNets(dz.Backbone):
    """Networks that predict noise from (x, step), each an effort.

    Args:
        *unets: diffusers' `UNet2DModel`s for images of one size, cheapest first. Their step counts from 0 to 999, as
            c_noise does for the process `VPDiscrete`.
    """

    def __init__(self, *unets: Any) -> None:
        about = unets[0].config
        channels = {"in_channels": about.in_channels, "out_channels": about.out_channels}
        super().__init__(dz.BackboneConfig(resolution=about.sample_size, **channels))
        self.efforts = tuple((i + 1) / len(unets) for i in range(len(unets)))
        self.unets = nn.ModuleList(unets)
        self.factor = 2 ** (len(about.block_out_channels) - 1)

    def forward(self, x: Tensor, c_noise: Tensor, given: dz.Given = NOTHING, effort: float | None = None) -> Tensor:
        """The noise in x, as one of the networks sees it."""
        unet = self.unets[self.efforts.index(self.check_effort(effort))]
        return unet(x, c_noise, class_labels=given.label, return_dict=False)[0]

    def num_params(self, effort: float | None = None) -> int:
        """Of one network; for None, of all."""
        used = self if effort is None else self.unets[self.efforts.index(effort)]
        return sum(parameter.numel() for parameter in used.parameters())
