"""Whether the jumps of a network compose: one against two of half its length.

A flow map has the semigroup property: from t by way of m to s is from t to s. How far trained jumps are from it says
what a further call can change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import clean_state, stages_of
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.objectives.few_calls import jump
from denoisezoo.diffusion.processes.process import DiagonalProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.pixels import to_float
from denoisezoo.runs.run import Run
from denoisezoo.studies.study import Plot, Row, Study, titles_of

PLOTS = (
    Plot("One jump against two, relative to its length", "jumps", "error", "run", log_x=True, log_y=True),
    Plot("Walks of one step and of more: how far their images are apart", "jumps", "difference", "run", log_x=True),
)


def semigroup_study(
    runs: Sequence[Run],
    counts: Sequence[int],
    num: int,
    batch_size: int = 256,
    progress: Callable[[str], None] = lambda text: None,
) -> Study:
    """Compare jumps on the grid "nested" of each number of steps with two jumps each on that of twice as many.

    States are noised images of the data, the same for every run; those of the prior are noise alone.

    Args:
        runs: Trained runs on the same data, of diagonal processes of one stage and without conditions. One that is told
            a single time jumps by DDIM, and shows what not having learned to jump amounts to.
        counts: Numbers of steps N, powers of 2.
        num: Images.
        batch_size: Images at once.
        progress: Told what is being compared.

    Returns:
        Rows with `error`, the root mean square of u_s - u_s' over that of u_s - u_t, over all steps of a walk, and
        `difference`, the root mean square over pixels of the difference between images of N steps and of twice as many.

    Raises:
        UserError: A run whose process has no jumps, or whose network is told a condition.
    """
    rows: list[Row] = []
    for run, title in zip(runs, titles_of([run.folder for run in runs]), strict=True):
        denoiser = run.denoiser
        process = denoiser.process
        if not isinstance(process, DiagonalProcess) or len(stages_of(process)) > 1 or denoiser.cond_shape is not None:
            raise UserError(
                f"{title} has no jumps to compare: {type(process).__name__}, or a network that is told a condition",
                "give runs of a process of one stage and independent coefficients, such as EDM, VP or RectifiedFlow",
            )
        image = denoiser.codec.encode_all(to_float(run.data().images("train")[:num]), "cpu", batch_size)
        u_0 = clean_state(process, image, torch.Generator().manual_seed(1))
        eps = torch.randn(u_0.shape, generator=torch.Generator().manual_seed(0))
        for N in counts:
            progress(f"{title} {N} jumps")
            error, difference = _compare(run, N, u_0.split(batch_size), eps.split(batch_size))
            row: Row = {"run": title, "name": run.name, "jumps": N, "images": len(u_0)}
            rows.append(row | {"error": error, "difference": difference, "second_time": denoiser.second_time})
    return Study(rows, PLOTS)


@torch.inference_mode()
def _compare(run: Run, N: int, images: Sequence[Tensor], noise: Sequence[Tensor]) -> tuple[float, float]:
    """`error` and `difference` of N steps."""
    denoiser = run.denoiser
    process = denoiser.process
    assert isinstance(process, DiagonalProcess), "see semigroup_study"
    given = Given()
    times = GRIDS["nested"](process, 2 * N)
    apart = length = moved = 0.0
    for u_0, eps in zip(images, noise, strict=True):
        n = len(u_0)
        one = two = process.perturb(torch.zeros_like(u_0), eps, times[:1].expand(n))
        for i in range(N):
            t, m, s = (times[2 * i + part].expand(n) for part in range(3))
            u_t = process.perturb(u_0 if i else torch.zeros_like(u_0), eps, t)
            whole = jump(denoiser, u_t, t, s, given)
            halves = jump(denoiser, jump(denoiser, u_t, t, m, given), m, s, given)
            apart += float((whole - halves).double().square().sum())
            length += float((whole - u_t).double().square().sum())
            one = jump(denoiser, one, t, s, given)
            two = jump(denoiser, jump(denoiser, two, t, m, given), m, s, given)
        pixels = [denoiser.codec.decode(process.basis.to_pixels(u)) for u in (one, two)]
        moved += float((pixels[0] - pixels[1]).double().square().mean()) * n
    return (apart / length) ** 0.5, (moved / sum(map(len, images))) ** 0.5
