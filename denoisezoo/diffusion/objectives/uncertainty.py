"""EDM2's loss: noise levels weigh as much as their error is certain, which a small network learns beside the denoiser.

Karras et al. 2023, arXiv 2312.02696, section 2.2 and appendix B; multi-task weighting by uncertainty is Kendall, Gal,
Cipolla 2018, arXiv 1705.07115.
"""

from __future__ import annotations

from torch import Tensor, nn

from denoisezoo.diffusion.network_denoiser import NetworkDenoiser
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Loss, Step
from denoisezoo.diffusion.objectives.regression import EDMLoss
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.magnitude import Uncertainty
from denoisezoo.nn.transfer import to_device

CURE = "use EDMLoss or Simple"


@OBJECTIVES.register("edm2")
class EDM2Loss(EDMLoss):
    """lambda(sigma) / exp(u(sigma)) |D - u_0|^2 + u(sigma) for each pixel, lambda = 1/c_out^2 (equation 14).

    Both terms are means over pixels, where the authors' code has sums: the difference is the constant C H W, to which
    Adam is blind. Where exp(u) has become the error of a noise level, levels count alike. A network that brings a u of
    its own is trained with that; for others it is built here, saved and averaged with the weights. Nothing needs it
    after training.

    Args:
        P_mean: Mean of ln sigma: the paper's is -0.4 for latents, -0.8 for ImageNet-64.
        P_std: Standard deviation of ln sigma: 1.0, and 1.6.
        stratified: See `Times`.
        features: Fourier features of a u that is built here.
    """

    def __init__(self, P_mean: float = -0.4, P_std: float = 1.0, stratified: bool = False, features: int = 128) -> None:
        super().__init__(P_mean, P_std, stratified)
        if features < 1:
            raise UserError(f"features is {features}", "give a positive whole number, such as 128")
        self.features_of_u = features
        self._uncertainty: nn.Module | None = None

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Refuse processes without one noise level."""
        _scalar(denoiser.process)

    def modules(self, denoiser: NetworkDenoiser) -> dict[str, nn.Module]:
        """u(sigma), unless the network has its own, which from now on is trained."""
        own = getattr(denoiser.backbone, "uncertainty", None)
        self._uncertainty = Uncertainty(self.features_of_u) if own is None else own.requires_grad_(True)
        return {"uncertainty": self._uncertainty} if own is None else {}

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch; `per_sample` and `error` are the plain ones."""
        assert self._uncertainty is not None, "`modules` is called before training"
        plain = super().__call__(step)
        error = plain.error if step.full_error is None else plain.error - step.full_error
        squared = error.float().square().flatten(1).mean(1)
        u: Tensor = self._uncertainty(to_device(c_noise(step.denoiser.process, plain.t), squared.device)).float()
        return plain._replace(loss=(squared * (-u).exp() + u).mean())


def c_noise(process: Process, t: Tensor) -> Tensor:
    """ln(sigma) / 4 of the noise relative to the image, (B,), whatever label of time the network sees."""
    return -_scalar(process).log_snr(t).float() / 8


def _scalar(process: Process) -> ScalarProcess:
    if not isinstance(process, ScalarProcess):
        raise UserError("EDM2Loss needs one noise level for all coefficients", CURE)
    return process
