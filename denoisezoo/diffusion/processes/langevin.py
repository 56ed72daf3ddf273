"""Critically-damped Langevin diffusion (CLD: Dockhorn, Vahdat, Kreis 2021, arXiv 2112.07068): noise enters through a
velocity that the image's position is coupled to, so that the path of the image itself is smooth.

State (x, v), stacked along the channels; 2x2 blocks, the same at every pixel. With B the integral of beta, M the mass,
Gamma = 2 sqrt(M) (critical damping), a = 2 / sqrt(M) and y = a B:

    F = beta [[0, 1/M], [-1, -Gamma/M]],    G G^T = diag(0, 2 Gamma beta)
    psi(t, s) = exp(-y/2) [[1 + y/2, a y/4], [-y/a, 1 - y/2]]
    Sigma_t = psi Sigma_0 psi^T + N(y),     N = e^-y [[e^y - 1 - y - y^2/2, sqrt(M) y^2/2],
                                                      [sqrt(M) y^2/2, M (e^y - 1 + y - y^2/2)]]

R_t is not the Cholesky factor L_t but L_t turned: R = L Q(theta), and the equation of R (gDDIM, arXiv 2206.05564,
section 3) leaves d theta / dB = -L_22 / (M L_11), one integral, which is tabulated to 1e-12 once per process.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from denoisezoo.diffusion.basis import PositionAndVelocity
from denoisezoo.diffusion.coefficients import apply_blocks, beside, inverse, product, stack_blocks, transpose
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, Process, check_finite
from denoisezoo.diffusion.processes.scalar import with_zero
from denoisezoo.errors import UserError


@PROCESSES.register("cld")
class CLD(Process):
    """Critically-damped Langevin diffusion.

    Args:
        beta_min: beta(t) = beta_min + beta_d t at t = 0.
        beta_d: Its rate of growth; 0 for CIFAR-10 (with beta_min 4), 6.9 with beta_min 0.1 for CelebA-HQ.
        inverse_mass: 1 / M.
        gamma: The velocity begins as N(0, gamma M).
        velocity: "marginal": noise includes the initial velocity, whose mean is 0 (hybrid score matching). "sampled":
            training draws it (plain denoising score matching).
        variance_0: Variance of the noise at t = 0, to keep R regular (1e-6 in gDDIM's code).
        t_min: Smallest time of sampling.
        t_train_min: Smallest time of training.
        start: Variances of position and velocity in the noise at t = 0; from `gamma` and `variance_0` unless given.
    """

    default_preconditioning = "eps"

    def __init__(
        self,
        beta_min: float = 4.0,
        beta_d: float = 0.0,
        inverse_mass: float = 4.0,
        gamma: float = 0.04,
        velocity: Literal["marginal", "sampled"] = "marginal",
        variance_0: float = 1e-6,
        t_min: float = 1e-3,
        t_train_min: float = 1e-5,
        start: tuple[float, float] | None = None,
    ) -> None:
        check_finite(beta_min=beta_min, beta_d=beta_d, inverse_mass=inverse_mass, gamma=gamma, variance_0=variance_0)
        check_finite(start=start)
        if min(beta_min, inverse_mass, gamma, variance_0, *(start or ())) <= 0 or beta_d < 0:
            raise UserError(
                f"beta_min {beta_min}, beta_d {beta_d}, inverse_mass {inverse_mass}, gamma {gamma}, "
                f"variance_0 {variance_0} or start {start} is out of range",
                "give positive numbers; only beta_d may be 0",
            )
        if not 0 < t_train_min <= t_min < 1:
            raise UserError(f"t_train_min {t_train_min} and t_min {t_min} are not in order", "give both below 1")
        self.beta_min, self.beta_d = beta_min, beta_d
        self.M = 1 / inverse_mass
        self.Gamma = 2 * self.M**0.5
        self.t_min, self.t_max, self.t_train_min = t_min, 1.0, t_train_min
        self.velocity, self.velocity_variance = velocity, gamma * self.M
        marginal = self.velocity_variance if velocity == "marginal" else 0.0
        self.start_variance = (variance_0, variance_0 + marginal) if start is None else tuple(start)
        self.basis = PositionAndVelocity(0.0 if velocity == "marginal" else self.velocity_variance**0.5)
        self._angles = AngleTable(self)

    # Coefficients

    def beta(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta_min + self.beta_d * t

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0."""
        return t * (self.beta_min + self.beta_d / 2 * t)

    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """Blocks of the module's docstring, from t to s."""
        a = 2 / self.M**0.5
        y = a * (self.integral(s) - self.integral(t))
        rows = [[1 + y / 2, a * y / 4], [-y / a, 1 - y / 2]]
        return stack_blocks([[torch.exp(-y / 2) * entry for entry in row] for row in rows])

    def covariance(self, t: Tensor) -> Tensor:
        """Blocks of Sigma_t."""
        return self.covariance_of(self.integral(t))

    def covariance_of(self, B: Tensor) -> Tensor:
        """Blocks of Sigma where the integral of beta is B (n,), without cancellation at small B."""
        a, M = 2 / self.M**0.5, self.M
        y = a * B
        half, decay = torch.exp(-y / 2), torch.exp(-y)
        x_0, v_0 = self.start_variance
        # psi Sigma_0 psi^T + N.
        xx, xv = half * (1 + y / 2), half * a * y / 4
        vx, vv = -half * y / a, half * (1 - y / 2)
        cross = xx * x_0 * vx + xv * v_0 * vv + decay * M**0.5 * y**2 / 2
        N_xx, N_vv = decay * exp_rest(y), decay * M * (torch.expm1(y) + y - y**2 / 2)
        return stack_blocks([[xx**2 * x_0 + xv**2 * v_0 + N_xx, cross], [cross, vx**2 * x_0 + vv**2 * v_0 + N_vv]])

    def cholesky(self, t: Tensor) -> Tensor:
        """Blocks of L_t, lower triangular, position first."""
        return cholesky(self.covariance(t))

    def noise(self, t: Tensor) -> Tensor:
        """R = L Q(theta)."""
        return product(self.cholesky(t), rotation(self._angles(self.integral(t))))

    def drift(self, t: Tensor) -> Tensor:
        """Blocks of F."""
        beta = self.beta(t)
        zero = torch.zeros_like(beta)
        return stack_blocks([[zero, beta / self.M], [-beta, -self.Gamma / self.M * beta]])

    def diffusion(self, t: Tensor) -> Tensor:
        """G G^T = diag(0, 2 Gamma beta)."""
        beta = self.beta(t)
        zero = torch.zeros_like(beta)
        return stack_blocks([[zero, zero], [zero, 2 * self.Gamma * beta]])

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """A' = F A and R' = F R + 1/2 G G^T R^-T."""
        F, R = self.drift(t), self.noise(t)
        return product(F, self.signal(t)), product(F, R) + product(self.diffusion(t), inverse(transpose(R))) / 2

    def log_snr(self, t: Tensor) -> Tensor:
        """ln det(A A^T) - ln det(Sigma), halved: the mean over the two coordinates."""
        L = self.cholesky(t)
        # det psi = exp(-y); det L = L_11 L_22.
        y = 2 / self.M**0.5 * self.integral(t)
        return (-y - (L[:, 0, 0] * L[:, 1, 1]).log().flatten()).reshape(t.shape)

    # Times

    def time_label(self, t: Tensor) -> Tensor:
        """999 t."""
        return 999 * t

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Uniform over [t_train_min, t_max]."""
        return self.t_train_min + (self.t_max - self.t_train_min) * uniform

    def grid(self, steps: int) -> Tensor:
        """Even in sqrt(t) (gDDIM's code): large steps first. The last, to 0, is one denoising."""
        low = self.t_min if steps > 1 else self.t_max
        return with_zero(torch.linspace(1.0, low**0.5, steps, dtype=torch.float64) ** 2)

    def score_of_velocity(self, u_t: Tensor, s_v: Tensor, t: Tensor) -> Tensor:
        """The image that belongs to a score of the velocity, (B, C, H, W); marginal velocity only.

        A E[u_0] = u_t + Sigma s (Tweedie) with u_0 = (x_0, 0) are two equations per pixel for x_0 and the score s_x:
        psi_xx x_0 = x + S_xx s_x + S_xv s_v and psi_vx x_0 = v + S_xv s_x + S_vv s_v.
        """
        x, v = u_t.chunk(2, dim=1)
        A, S = beside(self.signal(t), u_t), beside(self.covariance(t), u_t)
        det = A[:, 0, 0] * S[:, 0, 1] - A[:, 1, 0] * S[:, 0, 0]
        right_x, right_v = x + S[:, 0, 1] * s_v, v + S[:, 1, 1] * s_v
        return (S[:, 0, 1] * right_x - S[:, 0, 0] * right_v) / det

    def image_to_noise(self, u_t: Tensor, image: Tensor, t: Tensor) -> Tensor:
        """The noise R^-1 (u_t - A (x_0, 0)) of a predicted image, (B, 2C, H, W)."""
        gap = u_t - apply_blocks(self.signal(t), self.basis.encode(image))
        return apply_blocks(inverse(self.noise(t)), gap)


def exp_rest(y: Tensor) -> Tensor:
    """e^y - 1 - y - y^2/2 without cancellation: by its series below 1."""
    small = y.clamp(max=1.0)
    term, total = small**3 / 6, small**3 / 6
    for n in range(4, 20):
        term = term * small / n
        total = total + term
    return torch.where(y < 1, total, torch.expm1(y) - y - y**2 / 2)


def cholesky(S: Tensor) -> Tensor:
    """Lower triangular factor of 2x2 blocks (B, 2, 2, 1, 1, 1)."""
    S_xx, S_xv, S_vv = (S[:, i, j].flatten() for i, j in ((0, 0), (0, 1), (1, 1)))
    L_11 = S_xx.sqrt()
    L_21 = S_xv / L_11
    return stack_blocks([[L_11, torch.zeros_like(L_11)], [L_21, (S_vv - L_21**2).sqrt()]])


def rotation(theta: Tensor) -> Tensor:
    """Blocks [[cos, -sin], [sin, cos]] of angles (B,)."""
    cosine, sine = theta.cos(), theta.sin()
    return stack_blocks([[cosine, -sine], [sine, cosine]])


class AngleTable:
    """theta(B) with R = L Q(theta), theta(0) = 0, on a grid that is finest near 0; cubic Hermite between its points.

    Args:
        process: Whose covariances turn it.
        points: Of the grid. The error falls with their fourth power.
    """

    def __init__(self, process: CLD, points: int = 32768) -> None:
        self.process = process
        end = float(process.integral(torch.tensor(process.t_max, dtype=torch.float64, device="cpu")))
        self.delta = process.start_variance[0] ** 0.5 * 1e-2
        x = np.linspace(np.log(self.delta), np.log(end + self.delta), points)
        self.low, self.step, self.last = float(x[0]), float(x[1] - x[0]), points - 2
        nodes, weights = np.polynomial.legendre.leggauss(6)
        inner = x[:-1, None] + self.step * (nodes + 1) / 2
        rates = self._rate(torch.from_numpy(inner).flatten()).reshape(inner.shape)
        steps = (rates * torch.from_numpy(weights)).sum(1) * self.step / 2
        self.theta = Table(torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), steps.cumsum(0)]))
        self.rate = Table(self._rate(torch.from_numpy(x)) * self.step)

    def _rate(self, x: Tensor) -> Tensor:
        """d theta / dx with x = ln(B + delta)."""
        B = torch.exp(x) - self.delta
        L = cholesky(self.process.covariance_of(B.clamp(min=0)))
        return -(L[:, 1, 1] / L[:, 0, 0]).flatten() / self.process.M * torch.exp(x)

    def __call__(self, B: Tensor) -> Tensor:
        """theta (n,) at B (n,), in its dtype."""
        theta, rate = (table.like(B, torch.float64) for table in (self.theta, self.rate))
        place = (torch.log(B.double() + self.delta) - self.low) / self.step
        left = place.detach().floor().clamp(0, self.last).long()
        p = place - left
        right = left + 1
        rise = theta[right] - theta[left]
        bend = (1 - p) * (rate[left] - rise) - p * (rate[right] - rise)
        return (theta[left] + p * rise + p * (1 - p) * bend).to(B.dtype)
