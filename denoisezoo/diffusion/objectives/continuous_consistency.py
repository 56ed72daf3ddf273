"""Continuous-time consistency functions: the limit of neighbours that are infinitely near (sCM)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from denoisezoo.diffusion.coefficients import over_images
from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.few_calls import FewCalls
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Step
from denoisezoo.diffusion.objectives.times import LogNormalSigma, Times
from denoisezoo.diffusion.preconditioning import EDMPreconditioning
from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import pushed_forward
from denoisezoo.nn.magnitude import Uncertainty
from denoisezoo.nn.transfer import to_device


@OBJECTIVES.register("continuous_consistency")
class ContinuousConsistency(FewCalls):
    """sCM (Lu and Song 2024, arXiv 2410.11081, algorithm 1) in EDM's coordinates: without a teacher sCT, with one sCD.

    With sigma = sd tan(angle) TrigFlow is EDM's process and preconditioning, and its network is -F. In these letters
    the tangent, times cos(angle), is

        g = cos^2 (sd F + dx/dangle) - r (cos sin x - sd sigma dF/dsigma),

    x the state of TrigFlow, dF/dsigma along the path of the sample or of the teacher, r rising from 0 to 1 in `warmup`
    steps. It is divided by its root mean square + c, and the loss is |F - sg(F - g)|^2 / exp(u) + u with a u(sigma)
    that is learned beside the network (`EDM2Loss`); the prior weight is 1, which a port found stable where 1/sigma was
    not. It begins with the weights of a diffusion network (`model.start_from`), in a small unit of time: EDM's
    ln(sigma)/4 with sinusoids, and no Fourier features of a large scale. Sample with `consistency`.

    Args:
        teacher: See `FewCalls`; optional.
        times: Where sigma is drawn; ln sigma ~ N(-1.0, 1.4^2) unless given.
        warmup: Optimiser steps until the whole tangent counts; the paper's are 10,000.
        c: Of the normalisation.
        features: Fourier features of u.
        guidance: See `FewCalls`.
    """

    def __init__(
        self,
        teacher: str | None = None,
        times: Times | None = None,
        warmup: int = 10_000,
        c: float = 0.1,
        features: int = 128,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(teacher, guidance)
        if warmup < 1 or not 0 < c < math.inf or features < 1:
            raise UserError(f"warmup {warmup}, c {c} or features {features} is out of range", "give 10000, 0.1 and 128")
        self.times: Times = times or LogNormalSigma(-1.0, 1.4)
        self.warmup, self.c, self.features = warmup, c, features
        self.uncertainty: nn.Module | None = None

    def check(self, denoiser: NetworkDenoiser) -> None:
        """EDM's process and preconditioning."""
        super().check(denoiser)
        ends = torch.tensor([denoiser.process.t_min, denoiser.process.t_max], dtype=torch.float64, device="cpu")
        rates = denoiser.process.rates(ends)
        straight = bool((rates[0] == 0).all()) and bool((rates[1] == 1).all())
        if not (straight and isinstance(denoiser.preconditioning, EDMPreconditioning)):
            raise UserError(
                "ContinuousConsistency needs EDM's process and preconditioning, of which TrigFlow is another form",
                "use EDM and EDMPreconditioning",
            )

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """u(sigma)."""
        self.uncertainty = Uncertainty(self.features)
        return {"uncertainty": self.uncertainty}

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch; `per_sample` is the mean square of g, `error` is g after it is normalised."""
        denoiser = step.denoiser
        assert isinstance(denoiser, NetworkDenoiser), "see check"
        u_0, eps = self.draw(step)
        sigma = self.times(denoiser.process, self.times.uniform(len(u_0), step.host_generator, step.host))
        y, given = denoiser.process.perturb(u_0, eps, sigma), step.given  # EDM's state
        slope = eps
        if self.source is not None:
            with torch.no_grad():
                slope = self.master.velocity(y, sigma, given)

        def network(y: Tensor, sigma: Tensor) -> Tensor:
            return denoiser.network(y, sigma, given, step.effort)

        there = to_device(sigma, y.device)  # tangents of coefficients do not cross from the CPU
        F_x, along = pushed_forward(network, (y, there), (slope, torch.ones_like(there)))
        g = self.tangent(denoiser, y, slope, sigma, F_x.detach(), along.detach(), min(1.0, step.number / self.warmup))
        size = g.float().square().flatten(1).mean(1)
        bounded = g / over_images(size.sqrt() + self.c, g)
        error = F_x - (F_x.detach() - bounded)
        learned = error if step.full_error is None else error - step.full_error
        assert self.uncertainty is not None, "`modules` is called before training"
        u: Tensor = self.uncertainty(to_device(sigma.log().float() / 4, y.device)).float()
        squared = learned.float().square().flatten(1).mean(1)
        return Loss((squared * (-u).exp() + u).mean(), size, sigma, error)

    def tangent(
        self,
        denoiser: NetworkDenoiser,
        y: Tensor,
        slope: Tensor,
        sigma: Tensor,
        F_x: Tensor,
        along: Tensor,
        r: float,
    ) -> Tensor:
        """g, (B, C, H, W).

        Args:
            denoiser: Its preconditioning knows sd.
            y: States of EDM.
            slope: dy/dsigma.
            sigma: Times (B,).
            F_x: The network's output.
            along: dF/dsigma along the path.
            r: Share of the part with the derivative.
        """
        assert isinstance(denoiser.preconditioning, EDMPreconditioning), "see check"
        sd = denoiser.preconditioning.sigma_data
        root = (sigma**2 + sd**2).sqrt()
        cos, sin, s = (over_images(part, y) for part in (sd / root, sigma / root, sigma))
        # x = cos y, and dsigma/dangle = sd / cos^2.
        motion = -sin * y + slope * sd / cos
        return cos**2 * (sd * F_x + motion) - r * (cos**2 * sin * y - sd * s * along)
