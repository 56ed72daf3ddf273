"""The noise-robustness test of The Missing U (arXiv 2310.20092), with the defects of its measurement put right.

An image with Gaussian noise of standard deviation eps, on the scale [0, 1], is denoised in n steps; PSNR, SSIM and time
are compared. Different from the released test: images are in the range that the networks were trained on; the walk
starts at the noise level that the image has, and not at t = n - 1 whatever eps is; averaged weights; held-out images,
many of them, the same noise for all networks; noisy images are not clamped; time is that of the whole walk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoisezoo.diffusion import Denoiser, ScalarProcess
from denoisezoo.diffusion.capabilities import nearest_time
from denoisezoo.errors import UserError
from denoisezoo.evaluation.reconstruction import psnr, ssim
from denoisezoo.pixels import to_float
from denoisezoo.runs.run import Run
from denoisezoo.studies.study import Plot, Row, Study, titles_of

PLOTS = (
    Plot("PSNR of the denoised image, one step", "eps", "psnr_one_step", "run"),
    Plot("PSNR of the denoised image, most steps", "eps", "psnr_most_steps", "run"),
)


def robustness_study(
    runs: Sequence[Run],
    levels: Sequence[float],
    steps: Sequence[int],
    num: int,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Denoise the same noisy held-out images with every run.

    Args:
        runs: Trained runs on the same data.
        levels: Standard deviations of the noise, for images in [0, 1].
        steps: Numbers of steps.
        num: Images.
        progress: Told what is being denoised.
    """
    rows: list[Row] = []
    for run, title in zip(runs, titles_of([run.folder for run in runs]), strict=True):
        data = run.data()
        images = to_float((data.images("test") if len(data.images("test")) else data.images("train"))[:num])
        for eps in levels:
            noisy = images + 2 * eps * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
            for n in steps:
                progress(f"{title} eps {eps:g}, {n} steps")
                denoised = denoise(run.denoiser, noisy, 2 * eps, n)
                row: Row = {"run": title, "name": run.name, "eps": eps, "steps": n, "images": len(images)}
                figures = psnr(denoised.images, images)
                row |= {"noisy_psnr": float(psnr(noisy, images, clamp=False).mean()), "psnr": float(figures.mean())}
                row |= {"psnr_standard_error": float(figures.std() / math.sqrt(len(figures)))}
                row |= {"ssim": float(ssim(denoised.images, images).mean()), "ms_per_image": denoised.ms_per_image}
                row |= {"psnr_one_step": row["psnr"]} if n == min(steps) else {}
                row |= {"psnr_most_steps": row["psnr"]} if n == max(steps) else {}
                rows.append(row)
    return Study(rows, PLOTS)


@dataclass(frozen=True)
class Denoised:
    """Denoised images (B, C, H, W) in [-1, 1], and the time that one took."""

    images: Tensor
    ms_per_image: float


@torch.inference_mode()
def denoise(denoiser: Denoiser, noisy: Tensor, sigma: float, steps: int) -> Denoised:
    """Walk from noise level `sigma` to the image by deterministic DDIM steps, equal in log-sigma down to sigma / 100.

    Args:
        denoiser: Of a scalar process.
        noisy: Images (B, C, H, W) in [-1, 1] plus noise.
        sigma: Standard deviation of that noise, relative to the image.
        steps: Calls of the denoiser; with one, its estimate of the image is the result.

    Raises:
        UserError: The process has several noise levels at a time.
    """
    process = denoiser.process
    if not isinstance(process, ScalarProcess):
        raise UserError("this process has no single noise level", "choose runs of a scalar process, such as VP or EDM")
    sigmas = torch.logspace(math.log10(sigma), math.log10(sigma) - 2, steps + 1, dtype=torch.float64)[:-1]
    times = nearest_time(process, process.t_of_sigma(sigmas)).clamp(process.t_min, process.t_max)
    begin = time.perf_counter()
    u_t = _at(process.alpha(times[:1]), noisy) * noisy  # the state at that level, alpha u_0 + sigma eps
    for i in range(steps):
        prediction = denoiser(u_t.float(), times[i].expand(len(noisy)))
        if i + 1 < steps:
            s = times[i + 1 : i + 2]
            u_t = _at(process.alpha(s), noisy) * prediction.u_0 + _at(process.sigma(s), noisy) * prediction.eps
    seconds = time.perf_counter() - begin
    return Denoised(prediction.u_0.clamp(-1, 1), 1e3 * seconds / len(noisy))


def _at(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).reshape(1, 1, 1, 1)
