"""Preconditioning: how a raw network F becomes a denoiser.

Every preconditioning here is one line: the network is trained to return F = p u_0 + q eps. With
u_t = alpha u_0 + sigma eps this pair of equations is solved for u_0 and eps:

    u_0 = (q u_t - sigma F) / det,    eps = (alpha F - p u_t) / det,    det = alpha q - sigma p,

which is D = c_skip u_t + c_out F(c_in u_t; c_noise) of EDM (arXiv 2206.00364, equation 7) with c_skip = q / det and
c_out = -sigma / det, for any alpha, and without a division by alpha or sigma that the target does not force. All of
these are numbers, or maps where coefficients have noise levels of their own; `eps` also serves blocks, where they are
matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.diffusion.coefficients import aligned, apply_blocks, cropped_to, inverse, over_images, product
from denoisezoo.diffusion.processes.downsampling import DownSampling
from denoisezoo.diffusion.processes.langevin import CLD
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process
from denoisezoo.errors import UserError
from denoisezoo.registry import Registry

PRECONDITIONINGS: Registry[type[Preconditioning]] = Registry("preconditioning")


def with_channels(F_x: Tensor, channels: int) -> Tensor:
    """A network's output (B, C, H, W) with zeros for the last parts of the state, where it says nothing of them."""
    return F_x if F_x.shape[1] >= channels else F.pad(F_x, (0, 0, 0, 0, 0, channels - F_x.shape[1]))


class Preconditioning(ABC):
    """Relates the network's input and output to states of a process."""

    enlarges: ClassVar[bool] = False
    """Whether the network answers at twice the size of the state."""

    def check(self, process: Process) -> None:
        """Refuse a process that this preconditioning cannot serve."""
        if not isinstance(process, DiagonalProcess):
            raise UserError(
                f"preconditioning {type(self).__name__} cannot serve {type(process).__name__}, whose state has "
                f"{process.k} parts",
                "use Epsilon, which serves every process",
            )

    @abstractmethod
    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network's image input c_in u_t (B, C, H, W) and noise input c_noise (B,)."""

    @abstractmethod
    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What F should return for u_t = A_t u_0 + R_t eps, in the basis of the state, (B, C, H, W)."""

    @abstractmethod
    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of u_0 and eps from the network's output, each (B, C, H, W)."""

    @abstractmethod
    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """Factor by which an error of F becomes an error of u_0 (its absolute value): (B,), or a map."""


class LinearPreconditioning(Preconditioning):
    """Base of the preconditionings of diagonal processes: F = p u_0 + q eps."""

    @abstractmethod
    def mix(self, process: DiagonalProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        """The weights p and q of u_0 and eps in the target, each (B,) or a map."""

    def c_in(self, process: DiagonalProcess, t: Tensor) -> Tensor | None:
        """Scale (B,) of the network's input; None leaves u_t as it is."""
        return None

    def c_noise(self, process: DiagonalProcess, t: Tensor) -> Tensor:
        """The network's noise input (B,)."""
        return process.time_label(t)

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in u_t and c_noise."""
        diagonal = _diagonal(process)
        c_in = self.c_in(diagonal, t)
        return u_t if c_in is None else over_images(c_in, u_t) * u_t, self.c_noise(diagonal, t)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """p u_0 + q eps."""
        p, q = self.mix(_diagonal(process), t)
        return over_images(p, u_0) * u_0 + over_images(q, eps) * eps

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The two equations of the module's docstring."""
        diagonal = _diagonal(process)
        found = aligned(*diagonal.alpha_sigma(t), *self.mix(diagonal, t))
        alpha, sigma, p, q = (cropped_to(u_t, coefficient) for coefficient in found)
        det = alpha * q - sigma * p
        F_x = with_channels(F_x, u_t.shape[1])
        u_0 = over_images(q / det, u_t) * u_t - over_images(sigma / det, u_t) * F_x
        eps = over_images(alpha / det, u_t) * F_x - over_images(p / det, u_t) * u_t
        return u_0, eps

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """|sigma / det|."""
        diagonal = _diagonal(process)
        alpha, sigma, p, q = aligned(*diagonal.alpha_sigma(t), *self.mix(diagonal, t))
        return (sigma / (alpha * q - sigma * p)).abs()


def _diagonal(process: Process) -> DiagonalProcess:
    assert isinstance(process, DiagonalProcess), "NetworkDenoiser checks this when it is built"
    return process


@PRECONDITIONINGS.register("eps")
class Epsilon(LinearPreconditioning):
    """F predicts the noise (DDPM, arXiv 2006.11239, equation 14), in R's parameterisation (gDDIM) for any process."""

    def check(self, process: Process) -> None:
        """Every process is served."""

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
        alpha_dot, sigma_dot = aligned(*_diagonal(process).derivatives(last))
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
        diagonal = _diagonal(process)
        seen = F_x[..., : u_t.shape[-2], : u_t.shape[-1]]
        gap = u_t - over_images(diagonal.alpha(t), u_t) * seen
        return F_x, gap / over_images(diagonal.sigma(t), u_t)

    def c_out(self, process: Process, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)
