"""A plain GAN in the place of a diffusion model: what few-step methods with an adversarial loss are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisezoo.archs.discriminator import PUBLISHED, Discriminator, DiscriminatorConfig
from denoisezoo.diffusion.capabilities import Conditioned
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.adversarial import opposing_loss
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Objective, Step
from denoisezoo.diffusion.processes.process import ScalarProcess
from denoisezoo.errors import UserError


@OBJECTIVES.register("gan")
class PlainGAN(Objective):
    """One call makes an image of the process's last state, which holds noise alone; only a discriminator judges it.

    The non-saturating loss with R1 (Goodfellow et al. 2014, arXiv 1406.2661; Mescheder et al. 2018, arXiv 1801.04406).
    Sample with one step of a deterministic sampler, such as ddim.

    Args:
        r1: gamma, the weight of gamma/2 |grad D(real)|^2.
        discriminator: Sizes of the discriminator.
    """

    def __init__(self, r1: float = 0.1, discriminator: DiscriminatorConfig = PUBLISHED) -> None:
        if r1 < 0:
            raise UserError(f"r1 is {r1}", "give a number of at least 0")
        discriminator.validate()
        self.r1, self.discriminator = r1, discriminator
        self.adversary: nn.Module | None = None

    opponents = ("adversary",)

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Scalar processes, whose last state has the image's size, and no condition."""
        process = denoiser.process
        if not isinstance(process, ScalarProcess) or isinstance(process, Conditioned):
            raise UserError(f"PlainGAN cannot train a denoiser of {type(process).__name__}", "use EDM, VP or VE")

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """The discriminator."""
        self.adversary = Discriminator(self.discriminator, denoiser.backbone.spec)
        return {"adversary": self.adversary}

    def __call__(self, step: Step) -> Loss:
        """See `Objective`; `per_sample` is the squared distance to an image that the noise has nothing to do with."""
        fake, t = self._made(step)
        error = fake - step.batch["image"]
        loss = F.softplus(-self._judge(fake, t, step.batch)).mean()
        return Loss(loss, error.detach().float().square().mean((1, 2, 3)), t, error)

    def opposing_loss(self, name: str, step: Step) -> Tensor:
        """The discriminator's; see `Objective`."""
        with torch.no_grad():
            fake, t = self._made(step)
        return opposing_loss(lambda image: self._judge(image, t, step.batch), step.batch["image"], fake, self.r1)

    def _made(self, step: Step) -> tuple[Tensor, Tensor]:
        """Images of noise, as many as the batch has (B, C, H, W), and the time (B,) of that noise."""
        image, process = step.batch["image"], step.denoiser.process
        t = torch.full((len(image),), process.t_max, dtype=torch.float64, device=step.host)
        eps = torch.empty_like(image).normal_(generator=step.generator)
        u_T = process.perturb(torch.zeros_like(image), eps, t)
        return process.basis.to_pixels(step.denoiser(u_T, t, step.given, step.effort).u_0), t

    def _judge(self, image: Tensor, t: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        assert self.adversary is not None, "set before training"
        judged: Tensor = self.adversary(image, torch.zeros_like(t, device=image.device), batch.get("label"))
        return judged
