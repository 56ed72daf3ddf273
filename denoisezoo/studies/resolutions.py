"""What multi-scale denoisers save at growing resolution, against a uniform one at the same number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import NetworkDenoiser, Sampler, SeedBlock, create_denoiser
from denoisezoo.plans import extracted
from denoisezoo.profiling.latency import timer
from denoisezoo.profiling.trajectory import counting_copy, trace
from denoisezoo.studies.study import Plot, Row, Study

PLOTS = (
    Plot("Time saved against resolution", "resolution", "speed_up", "line", log_x=True),
    Plot("MACs saved against resolution", "resolution", "macs_ratio", "line", log_x=True),
    Plot("Time of an image", "resolution", "ms_per_image", "line_of_network", log_x=True, log_y=True),
)


def resolution_study(
    names: Sequence[str],
    processes: Sequence[str],
    resolutions: Sequence[int],
    sampler: Sampler,
    steps: int,
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 3,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    channels_last: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Time whole walks of two untrained networks in turns, so that both meet the same disturbances.

    Args:
        names: A multi-scale network, and the uniform one that it is held against.
        processes: The process of each.
        resolutions: Sizes of the images.
        sampler: The sampler.
        steps: Its steps, the same for both.
        batch_sizes: Images at a time.
        rounds: Walks of each; the fastest counts.
        device: Where to time them.
        dtype: Of both networks; iterates are float32 in any case.
        compile: Compile both networks, for each size that they see.
        channels_last: Keep the weights of both in that layout, which their activations then follow.
        progress: Told what is being timed.
    """
    rows: list[Row] = []
    for resolution in resolutions:
        denoisers = [
            create_denoiser(create_backbone(name, resolution=resolution), process).eval()
            for name, process in zip(names, processes, strict=True)
        ]
        if channels_last:
            denoisers = [denoiser.to(memory_format=torch.channels_last) for denoiser in denoisers]
        macs = [macs_of(denoiser, sampler, steps) for denoiser in denoisers]
        denoisers = [denoiser.to(device=device, dtype=dtype) for denoiser in denoisers]
        timed = [extracted(d, d.efforts[-1:], compile=True) for d in denoisers] if compile else denoisers
        for batch in batch_sizes:
            progress(f"{resolution}x{resolution}, batch {batch}")
            times = times_of(timed, sampler, steps, batch, rounds, device)
            for name, process, denoiser, ms, cost in zip(names, processes, denoisers, times, macs, strict=True):
                row: Row = {"name": name, "process": process, "resolution": resolution, "batch_size": batch}
                row |= {
                    "steps": steps,
                    "rounds": rounds,
                    "params": sum(parameter.numel() for parameter in denoiser.backbone.parameters()),
                }
                row |= {"compiled": compile, "layout": "channels_last" if channels_last else "contiguous"}
                row |= {"ms_per_image": ms, "macs_per_image": cost}
                rows.append(row | {"line_of_network": f"{name} ({process}), batch {batch}"})
            saved = {"speed_up": times[1] / times[0], "macs_ratio": macs[1] / macs[0]}
            rows[-2] |= {"line": f"batch {batch}"} | saved
    return Study(rows, PLOTS)


def macs_of(denoiser: NetworkDenoiser, sampler: Sampler, steps: int) -> int:
    """Multiply-adds of one image, counted without weights."""
    u_T = sampler.prior(denoiser.process, (1, *denoiser.latent_shape), steps, SeedBlock([0]))
    walked = trace(counting_copy(denoiser), sampler, u_T, steps=steps, generator=SeedBlock([0]), timed=False)
    return walked.macs_per_image


def times_of(
    denoisers: Sequence[NetworkDenoiser],
    sampler: Sampler,
    steps: int,
    batch: int,
    rounds: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Milliseconds of an image for each denoiser: the fastest of some walks, taken in turns after a warm-up."""
    best = [float("inf")] * len(denoisers)
    for i in range(rounds + 1):
        for n, denoiser in enumerate(denoisers):
            noise = SeedBlock(range(batch))
            count = sampler.fewest(denoiser.process) if i == 0 else steps
            shape, dtype = (batch, *denoiser.latent_shape), torch.float32
            u_T = sampler.prior(denoiser.process, shape, count, noise, device=device, dtype=dtype)
            ms = timer(u_T.device)(partial(sampler, denoiser, u_T, steps=count, generator=noise))
            if i:
                best[n] = min(best[n], ms / batch)
    return best
