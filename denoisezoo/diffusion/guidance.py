"""Classifier-free guidance: a denoiser made of a network's answers with and without the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.grids import within
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given

EVERYWHERE = (0.0, math.inf)
"""An interval that all noise levels lie in."""


class Guided(Denoiser):
    """D = D(u; none) + w (D(u; label) - D(u; none)).

    Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598, equation 6, with w for their 1 + w;
    the interval is that of Kynkäänniemi et al. 2024, arXiv 2404.07724. Where w is 1, outside of the interval and
    without a label, the denoiser is called once; where it guides any image of a batch, twice.

    Args:
        denoiser: Trained with and without labels; without one it answers for all classes.
        scale: w; 1 is the network itself, 0 ignores the label.
        sigma_min: Noise level, relative to the image, below which there is no guidance.
        sigma_max: Noise level above which there is none.
    """

    def __init__(
        self, denoiser: Denoiser, scale: float, *, sigma_min: float = 0.0, sigma_max: float = math.inf
    ) -> None:
        super().__init__()
        if not math.isfinite(scale):
            raise UserError(f"guidance scale {scale} is not finite", "use a number such as 2")
        if not 0 <= sigma_min < sigma_max:
            raise UserError(f"guidance interval {sigma_min} to {sigma_max} is empty", "use 0 <= sigma_min < sigma_max")
        self.denoiser, self.scale = denoiser, scale
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.process, self.efforts, self.codec = denoiser.process, denoiser.efforts, denoiser.codec

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Denoise; see `Denoiser.forward`. Each image is guided by its own noise level."""
        found: Prediction = self.denoiser(u_t, t, given, effort)
        if given.label is None or self.scale == 1 or not bool((guides := self._inside(t)).any()):
            return found
        free: Prediction = self.denoiser(u_t, t, given._replace(label=None), effort)
        w = torch.where(guides, self.scale, 1.0).to(found.u_0).reshape(-1, 1, 1, 1)
        return Prediction(torch.lerp(free.u_0, found.u_0, w), torch.lerp(free.eps, found.eps, w), found.variance)

    def _inside(self, t: Tensor) -> Tensor:
        """Which images of times t (B,) it guides, (B,)."""
        if self.sigma_min == 0 and self.sigma_max == math.inf:
            return torch.ones_like(t, dtype=torch.bool)
        sigma = (-self.process.log_snr(t) / 2).exp()
        return within(sigma, self.sigma_min, self.sigma_max)


def guided(denoiser: Denoiser, scale: float | None, interval: tuple[float, float] = EVERYWHERE) -> Denoiser:
    """A denoiser with guidance around it, if there is a scale.

    Raises:
        UserError: See `Guided`.
    """
    return denoiser if scale is None else Guided(denoiser, scale, sigma_min=interval[0], sigma_max=interval[1])
