"""Denoising error by noise level on held-out images: comparable between all denoisers, however they were trained."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.diffusion import NOTHING, Denoiser, Given, ScalarProcess, conditioned
from denoisezoo.diffusion.capabilities import nearest_time, unconditioned
from denoisezoo.diffusion.grids import within
from denoisezoo.pixels import as_image

LOG_SNRS = tuple(float(x) for x in range(-9, 10, 2))
"""Centres of ten bins of log-SNR, two wide."""


@torch.inference_mode()
def denoising_error(
    denoiser: Denoiser,
    images: Tensor,
    *,
    given: Given = NOTHING,
    seed: int = 0,
    batch_size: int = 256,
    in_pixels: bool = False,
) -> list[tuple[float, float, float, float]]:
    """Mean squared error of the predicted image at ten noise levels, with the same noise for every denoiser.

    Where there is a codec, the image is that of the process, its latents, unless pixels are asked for.

    Args:
        denoiser: In evaluation mode.
        images: Held-out images (N, C, H, W) in [-1, 1].
        given: What they are told: classes (N,), conditions (N, Cy, H, W), images too.
        seed: Seed of the noise.
        batch_size: Images at a time.
        in_pixels: Decode what is predicted, and compare it with the images themselves: what the codec loses is part of
            the error, which compares with that of denoisers of pixels and of other codecs.

    Returns:
        Rows (lower log-SNR, upper log-SNR, mean error per pixel or number of a latent, number of images), noisiest
        first. A level beyond the range of the process has no row; a process with several noise levels has none.
    """
    process = denoiser.process if given.image is None else unconditioned(denoiser.process)
    if not isinstance(process, ScalarProcess):
        return []
    device = next(denoiser.parameters()).device
    images = as_image(images)
    clean = denoiser.codec.encode_all(images, device, batch_size)
    if given.image is not None:
        given = given._replace(image=denoiser.codec.encode_all(given.image, device, batch_size))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    rows = []
    for log_snr in LOG_SNRS:
        t = nearest_time(process, process.t_of_sigma(torch.tensor([-log_snr / 2], dtype=torch.float64).exp()))
        if not bool(within(t, process.t_min, process.t_max)):
            continue
        total = 0.0
        for low in range(0, len(clean), batch_size):
            part = slice(low, low + batch_size)
            u_0, eps = clean[part].to(device), noise[part].to(device)
            times = t.to(device).expand(len(u_0))
            source = torch.Generator(device).manual_seed(seed + 1 + low)
            subject, told = conditioned(denoiser, given.take(part).to(device), source)
            u_0_hat = subject(process.perturb(u_0, eps, times), times, told).u_0
            error = denoiser.codec.to_images(u_0_hat) - images[part].to(device) if in_pixels else u_0_hat - u_0
            total += float(error.square().mean(dim=(1, 2, 3)).sum())
        rows.append((log_snr - 1, log_snr + 1, total / len(clean), float(len(clean))))
    return rows
