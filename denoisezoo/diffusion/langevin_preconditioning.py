"""The preconditionings of Langevin diffusion, whose networks answer for the image alone."""

from __future__ import annotations

from torch import Tensor

from denoisezoo.diffusion.coefficients import apply_blocks, beside, inverse, over_images, product
from denoisezoo.diffusion.linear_preconditioning import PRECONDITIONINGS, Preconditioning
from denoisezoo.diffusion.processes.langevin import CLD
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.errors import UserError


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
        return eps_v - beside(_ratio(L), v) * v

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The image by Tweedie's formula for position and velocity, and the noise that is left."""
        cld = _langevin(process)
        L = cld.cholesky(t)
        v = u_t.chunk(2, dim=1)[1]
        s_v = -(beside(_ratio(L), v) * v + F_x) / beside(L[:, 1, 1], v)
        image = cld.score_of_velocity(u_t, s_v, t)
        return process.basis.encode(image), cld.image_to_noise(u_t, image, t)

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
        K = variance * (inverse(V) * A_x[:, None]).sum(2)
        # sigma_data^2 (1 - K A_x) = sigma_data^2 / (1 + sigma_data^2 A_x^T Sigma^-1 A_x), without cancellation.
        snr = (A_x[:, :, None] * inverse(Sigma) * A_x[:, None]).sum((1, 2))
        return V.diagonal(dim1=1, dim2=2).sqrt(), K, (variance / (1 + variance * snr)).sqrt()

    def inputs(self, process: Process, u_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """u_t over its standard deviations, and the time label."""
        std = beside(self._moments(process, t)[0][:, :, None, None, None], u_t)
        return (u_t.unflatten(1, (2, -1)) / std).flatten(1, 2), process.time_label(t)

    def _estimate(self, K: Tensor, u_t: Tensor) -> Tensor:
        return (beside(K[:, :, None, None, None], u_t) * u_t.unflatten(1, (2, -1))).sum(1)

    def target(self, process: Process, u_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(x_0 - K u_t) / c_out."""
        _, K, c_out = self._moments(process, t)
        gap = process.basis.decode(u_0) - self._estimate(K, process.perturb(u_0, eps, t))
        return gap / over_images(c_out, gap)

    def prediction(self, process: Process, u_t: Tensor, t: Tensor, F_x: Tensor) -> tuple[Tensor, Tensor]:
        """The image, and the noise that is left."""
        _, K, c_out = self._moments(process, t)
        image = self._estimate(K, u_t) + over_images(c_out, F_x) * F_x
        return process.basis.encode(image), _langevin(process).image_to_noise(u_t, image, t)

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
