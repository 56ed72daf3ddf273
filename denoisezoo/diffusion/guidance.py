"""Guidance: a denoiser made of a network's answers with and without the label, or of those of two networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.grids import within
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transfer import to_device

EVERYWHERE = (0.0, math.inf)
"""An interval that all noise levels lie in."""


class Guided(Denoiser):
    """D = D_ref(u) + w (D(u; label) - D_ref(u)), D_ref the network without the label, or a lesser network.

    Without a guide: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv 2207.12598, equation 6, w for
    their 1 + w. With one: EDM2 (arXiv 2312.02696, section 4), whose guide knows no classes, or autoguidance (Karras et
    al. 2024, arXiv 2406.02507), whose guide is told what the network is told, and is smaller or less trained; it also
    guides without labels. The interval is that of Kynkäänniemi et al. 2024, arXiv 2404.07724. Where w is 1, outside of
    the interval, and without a guide and a label, the denoiser is called alone.

    Args:
        denoiser: Trained with and without labels; without one it answers for all classes.
        scale: w; 1 is the network itself, 0 ignores the label.
        sigma_min: Noise level, relative to the image, below which there is no guidance.
        sigma_max: Noise level above which there is none.
        guide: Another denoiser of the same process and size, called in full in place of the one without the label. It
            is told of the images what it takes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        *,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        guide: Denoiser | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(scale):
            raise UserError(f"guidance scale {scale} is not finite", "use a number such as 2")
        if not 0 <= sigma_min < sigma_max:
            raise UserError(f"guidance interval {sigma_min} to {sigma_max} is empty", "use 0 <= sigma_min < sigma_max")
        if guide is not None:
            check_guide(denoiser, guide)
        self.denoiser, self.scale, self.guide = denoiser, scale, guide
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.process, self.efforts, self.codec = denoiser.process, denoiser.efforts, denoiser.codec
        self.second_time = denoiser.second_time

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Denoise; see `Denoiser.forward`. Each image is guided by its own noise level."""
        found: Prediction = self.denoiser(u_t, t, given, effort)
        nobody = given.label is None and self.guide is None
        if nobody or self.scale == 1:
            return found
        guides = self._inside(t)  # not looked at where it is everywhere: the host would wait
        if (self.sigma_min, self.sigma_max) != EVERYWHERE and not bool(guides.any()):
            return found
        free: Prediction
        if self.guide is None:
            free = self.denoiser(u_t, t, given._replace(label=None), effort)
        else:
            takes, told = self.guide.blank(), ("label", "image", "tokens", "tokens_mask")
            unknown = [name for name in told if getattr(takes, name.removesuffix("_mask")) is None]
            free = self.guide(u_t, t, given._replace(**dict.fromkeys(unknown)))
        w = to_device(torch.where(guides, self.scale, 1.0).to(found.u_0.dtype), u_t.device).reshape(-1, 1, 1, 1)
        return Prediction(torch.lerp(free.u_0, found.u_0, w), torch.lerp(free.eps, found.eps, w), found.variance)

    def _inside(self, t: Tensor) -> Tensor:
        """Which images of times t (B,) it guides, (B,)."""
        if (self.sigma_min, self.sigma_max) == EVERYWHERE:
            return torch.ones_like(t, dtype=torch.bool)
        sigma = (-self.process.log_snr(t) / 2).exp()
        return within(sigma, self.sigma_min, self.sigma_max)


def guided(
    denoiser: Denoiser,
    scale: float | None,
    interval: tuple[float, float] = EVERYWHERE,
    guide: Denoiser | None = None,
) -> Denoiser:
    """A denoiser with guidance around it, if there is a scale: by its own answers without the label, or by a guide's.

    Raises:
        UserError: See `Guided`; or there is a guide without a scale.
    """
    if scale is None:
        if guide is not None:
            raise UserError("a guide is given without a scale of guidance", "give both, e.g. `guidance=1.5`")
        return denoiser
    return Guided(denoiser, scale, sigma_min=interval[0], sigma_max=interval[1], guide=guide)


def check_guide(denoiser: Denoiser, guide: Denoiser) -> None:
    """Refuse a guide whose answers cannot be compared with those of a denoiser.

    Raises:
        UserError: Its process, or the size of its images, is another.
    """
    ours, theirs = denoiser.process, guide.process
    if not _alike(ours, theirs):
        names = f"{type(theirs).__name__} and {type(ours).__name__}"
        how = names if type(theirs) is not type(ours) else f"{type(ours).__name__} with other values"
        raise UserError(f"the guide and the network have different processes: {how}", "take a guide trained under it")
    shapes = [_image_shape(one) for one in (guide, denoiser)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise UserError(f"the guide makes images of shape {shapes[0]}, and the network {shapes[1]}", "take another")


def _image_shape(denoiser: Denoiser) -> tuple[int, int, int] | None:
    try:
        return denoiser.image_shape
    except UserError:  # an oracle does not know
        return None


def _alike(a: Any, b: Any) -> bool:
    """Whether two objects are of one class and hold the same values, however deep."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and bool((a.cpu() == b.cpu()).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    return _alike(vars(a), vars(b)) if hasattr(a, "__dict__") and not callable(a) else bool(a == b)
