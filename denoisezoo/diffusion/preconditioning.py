"""The preconditionings: what a network predicts, and how it is scaled. `denoisezoo.diffusion.linear` has their base."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion.coefficients import aligned, apply_blocks, inverse, over_images, product
from denoisezoo.diffusion.linear_preconditioning import (
    PRECONDITIONINGS,
    LinearPreconditioning,
    Preconditioning,
    diagonal_of,
)
from denoisezoo.diffusion.processes.downsampling import DownSampling
from denoisezoo.diffusion.processes.langevin import CLD
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process
from denoisezoo.errors import UserError


@PRECONDITIONINGS.register("eps")
class Epsilon(LinearPreconditioning):
    """F predicts the noise (DDPM, arXiv 2006.11239, equation 14), in R's parameterisation (gDDIM) for any process.

    An error of F becomes one of the image sigma / alpha times as large: 20,291 where `VPDiscrete("cosine")` begins, so
    that improved DDPM clips the image there (`ddim:clip=true`).
    """

    def check(self, process: Process) -> None:
        """Every process is served whose walk begins with some signal."""
        _require_signal(process, self)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t and the time label."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps."""
        return eps

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """u_0 = A^-1 (u_t - R eps)."""
        if isinstance(process, DiagonalProcess):
            return super().prediction(process, u_t, t, F_x)
        gap = u_t - apply_blocks(process.noise(t), F_x)
        return apply_blocks(inverse(process.signal(t)), gap), F_x

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """sigma / alpha, or the root of the mean square over the blocks of A^-1 R."""
        if isinstance(process, DiagonalProcess):
            return super().c_out(process, t)
        blocks = product(inverse(process.signal(t)), process.noise(t))
        return blocks.square().sum((1, 2)).mean((1, 2, 3)).div(process.k).sqrt()

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = eps."""
        return torch.zeros_like(t), torch.ones_like(t)


@PRECONDITIONINGS.register("score")
class Score(LinearPreconditioning):
    """F predicts the score of u_t given u_0, -eps / sigma (score_sde, arXiv 2011.13456, equation 7; MSDiff's networks).

    Errors of F count for eps sigma times as much; score_sde's weights are those of `Likelihood`, or with `Epsilon` 1.
    """

    def check(self, process: Process) -> None:
        """Diagonal processes whose walk begins with some signal."""
        super().check(process)
        _require_signal(process, self)

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = -eps / sigma."""
        sigma = process.sigma(t)
        # Parts of a state without noise, such as a clean condition, have no score; they must not spoil the image.
        return torch.zeros_like(sigma), -1 / sigma.clamp(min=1e-12)


def _require_signal(process: Process, preconditioning: Preconditioning) -> None:
    """Refuse a process that begins in pure noise, from which noise that is known says nothing of the image."""
    if not isinstance(process, DiagonalProcess):
        return
    alpha = process.alpha(torch.tensor([process.t_max], dtype=torch.float64, device="cpu"))
    side = (process.resolution or 1) >> process.dropped(process.t_max)
    if bool(((alpha if alpha.ndim == 1 else alpha[..., :side, :side]) == 0).any()):
        raise UserError(
            f"preconditioning {type(preconditioning).__name__} cannot serve {type(process).__name__}, whose walk "
            "begins in noise alone: from there it would divide by a signal of 0",
            "use Velocity, V or X0",
        )


@PRECONDITIONINGS.register("x0")
class X0(LinearPreconditioning):
    """F predicts the image."""

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = u_0."""
        return torch.ones_like(t), torch.zeros_like(t)


@PRECONDITIONINGS.register("v")
class V(LinearPreconditioning):
    """F predicts v = alpha eps - sigma u_0 (progressive distillation, arXiv 2202.00512, appendix D)."""

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = -sigma u_0 + alpha eps."""
        alpha, sigma = process.alpha_sigma(t)
        return -sigma, alpha


@PRECONDITIONINGS.register("velocity")
class Velocity(LinearPreconditioning):
    """F predicts du_t/dt = alpha' u_0 + sigma' eps; eps - u_0 for rectified flow (arXiv 2209.03003, equation 1)."""

    def check(self, process: Process) -> None:
        """Every coefficient of the state must move at all times."""
        super().check(process)
        last = torch.tensor([process.t_max], dtype=torch.float64, device="cpu")
        alpha_dot, sigma_dot = aligned(*diagonal_of(process).derivatives(last))
        side = (process.resolution or 1) >> process.dropped(process.t_max)
        if alpha_dot.ndim > 1 and bool(((alpha_dot == 0) & (sigma_dot == 0))[..., :side, :side].any()):
            raise UserError(
                f"some coefficients of {type(process).__name__} stand still, and have no velocity to predict",
                "use Epsilon or V, or let them leave the state",
            )

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = alpha' u_0 + sigma' eps."""
        return process.derivatives(t)


@PRECONDITIONINGS.register("edm")
class EDMPreconditioning(LinearPreconditioning):
    """EDM's scaling: input and target of F have unit variance (arXiv 2206.00364, table 1), here for any alpha.

    With var = sigma^2 + alpha^2 sigma_data^2: c_in = 1/sqrt(var), c_skip = alpha sigma_data^2/var,
    c_out = sigma sigma_data/sqrt(var), so F = (u_0 - c_skip u_t)/c_out has p = sigma/(sigma_data sqrt(var)) and
    q = -alpha sigma_data/sqrt(var).

    Args:
        sigma_data: Standard deviation of the data.
    """

    # c_noise of a state that holds no signal at all would be infinite; this is ln(sigma)/4 at sigma = exp(20).
    MAX_C_NOISE = 5.0

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise UserError(f"sigma_data is {sigma_data}", "give the positive standard deviation of the data")
        self.sigma_data = sigma_data

    def _std(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma**2 + (alpha * self.sigma_data) ** 2).sqrt()

    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = (u_0 - c_skip u_t) / c_out."""
        alpha, sigma = process.alpha_sigma(t)
        std = self._std(alpha, sigma)
        return sigma / (self.sigma_data * std), -alpha * self.sigma_data / std

    def c_in(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """1 / sqrt(sigma^2 + alpha^2 sigma_data^2)."""
        return 1 / self._std(*process.alpha_sigma(t))

    def c_noise(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """ln(sigma) / 4 with EDM's relative sigma, sigma^-2 = SNR."""
        return (-process.log_snr(t) / 8).clamp(-self.MAX_C_NOISE, self.MAX_C_NOISE)


@PRECONDITIONINGS.register("mixed_score")
class MixedScore(Preconditioning):
    """F gives what is not Gaussian in the score of the velocity (CLD, arXiv 2112.07068, section 3.2): C outputs of 2C.

    s_v = -v / Sigma_vv - l_t F with l_t = 1 / L_22. The loss is hybrid score matching, "reweighted": the error of the
    second normal number of the Cholesky draw, |s_v / (-l_t) - eps_v|^2. The image that belongs to s_v is exact, as the
    mean velocity is known to begin at 0.
    """

    of_image = True

    def check(self, process: Process) -> None:
        """Langevin processes with a marginal velocity only."""
        _require_marginal(process, self)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t and the time label."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """eps_v - L_22 v / Sigma_vv with eps_v = (L^-1 R eps)_v."""
        cld = _langevin(process)
        L, v = cld.cholesky(t), process.perturb(u_0, eps, t).chunk(2, dim=1)[1]
        eps_v = apply_blocks(product(inverse(L), process.noise(t)), eps).chunk(2, dim=1)[1]
        return eps_v - _ratio(L).to(v) * v

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The image by Tweedie's formula for position and velocity, and the noise that is left."""
        cld = _langevin(process)
        L = cld.cholesky(t)
        v = u_t.chunk(2, dim=1)[1]
        s_v = -(_ratio(L).to(v) * v + F_x) / L[:, 1, 1].to(v)
        image = cld.score_of_velocity(u_t, s_v, t)
        return process.encode(image), cld.image_to_noise(u_t, image, t)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """|d x_0 / d s_v| / L_22."""
        cld = _langevin(process)
        A, S, L = cld.signal(t), cld.covariance(t), cld.cholesky(t)
        det = A[:, 0, 0] * S[:, 0, 1] - A[:, 1, 0] * S[:, 0, 0]
        return ((S[:, 0, 1] ** 2 - S[:, 0, 0] * S[:, 1, 1]) / det / L[:, 1, 1]).abs().flatten()


@PRECONDITIONINGS.register("whitened")
class Whitened(Preconditioning):
    """EDM's scaling for Langevin diffusion: F has unit variance and predicts the image, C outputs of 2C inputs. Ours.

    For data of standard deviation sigma_data, V = sigma_data^2 A_x A_x^T + Sigma is the covariance of (x, v), with A_x
    the first column of A. D = K u_t + c_out F with K = sigma_data^2 A_x^T V^-1 the best linear estimate, and
    c_out^2 = sigma_data^2 (1 - K A_x) its error; position and velocity are divided by their standard deviations.

    Args:
        sigma_data: Standard deviation of the data.
    """

    of_image = True

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise UserError(f"sigma_data is {sigma_data}", "give the positive standard deviation of the data")
        self.sigma_data = sigma_data

    def check(self, process: Process) -> None:
        """Langevin processes with a marginal velocity only."""
        _require_marginal(process, self)

    def _moments(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standard deviations (B, 2) of x and v, K (B, 2), and c_out (B,)."""
        cld, variance = _langevin(process), self.sigma_data**2
        A_x, Sigma = cld.signal(t)[:, :, 0].flatten(1), cld.covariance(t)[..., 0, 0, 0]
        V = variance * A_x[:, :, None] * A_x[:, None] + Sigma
        K = variance * torch.linalg.solve(V, A_x)
        # sigma_data^2 (1 - K A_x) = sigma_data^2 / (1 + sigma_data^2 A_x^T Sigma^-1 A_x), without cancellation.
        snr = (A_x * torch.linalg.solve(Sigma, A_x)).sum(1)
        return V.diagonal(dim1=1, dim2=2).sqrt(), K, (variance / (1 + variance * snr)).sqrt()

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t over its standard deviations, and the time label."""
        std = self._moments(process, t)[0].to(u_t)[:, :, None, None, None]
        return (u_t.unflatten(1, (2, -1)) / std).flatten(1, 2), process.time_label(t)

    def _estimate(self, K: Tensor, u_t: Tensor) -> Tensor:
        return (K.to(u_t)[:, :, None, None, None] * u_t.unflatten(1, (2, -1))).sum(1)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(x_0 - K u_t) / c_out."""
        _, K, c_out = self._moments(process, t)
        gap = process.decode(u_0) - self._estimate(K, process.perturb(u_0, eps, t))
        return gap / over_images(c_out, gap)

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The image, and the noise that is left."""
        _, K, c_out = self._moments(process, t)
        image = self._estimate(K, u_t) + over_images(c_out, F_x) * F_x
        return process.encode(image), _langevin(process).image_to_noise(u_t, image, t)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """c_out."""
        return self._moments(process, t)[2]


def _require_marginal(process: Process, preconditioning: Preconditioning) -> None:
    if isinstance(process, CLD) and process.velocity == "marginal":
        return
    found = type(process).__name__ + (" with a sampled one" if isinstance(process, CLD) else "")
    raise UserError(
        f"preconditioning {type(preconditioning).__name__} needs a velocity that is marginalised, not {found}",
        "use it with CLD and velocity marginal, or use Epsilon",
    )


def _langevin(process: Process) -> CLD:
    assert isinstance(process, CLD), "NetworkDenoiser checks this when it is built"
    return process


def _ratio(L: Tensor) -> Tensor:
    """L_22 / Sigma_vv (B, 1, 1, 1)."""
    return L[:, 1, 1] / (L[:, 1, 0] ** 2 + L[:, 1, 1] ** 2)


@PRECONDITIONINGS.register("next_scale")
class NextScale(Preconditioning):
    """F predicts H^(l-1) u_0 from u_l, at twice its size (UDPM, arXiv 2305.16269)."""

    enlarges = True

    def check(self, process: Process) -> None:
        """Down-sampling processes only."""
        if not isinstance(process, DownSampling):
            raise UserError(
                f"preconditioning NextScale cannot serve {type(process).__name__}, whose steps keep the size",
                "use X0, or the process DownSampling",
            )

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_l as it is, and the label of its level."""
        return u_t, process.time_label(t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The clean state at twice the size of the noisy one."""
        return u_0

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """F, (B, C, 2H, 2W), and the noise that belongs to the part of it that u_l has."""
        diagonal = diagonal_of(process)
        seen = F_x[..., : u_t.shape[-2], : u_t.shape[-1]]
        gap = u_t - over_images(diagonal.alpha(t), u_t) * seen
        return F_x, gap / over_images(diagonal.sigma(t), u_t)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
