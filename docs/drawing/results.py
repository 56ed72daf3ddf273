"""What was measured, drawn from `results/*.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import denoisezoo as dz
from drawing import COLOURS, MARKERS, WIDTH, grouped, mean_std, picture, rows_of

Rows = Sequence[dict[str, str]]


def scatter(axis: Axes, groups: Mapping[str, Rows], x: str, y: str, scale: float = 1.0) -> None:
    """Means of two columns of each group, with the standard deviation of the second; the first is multiplied."""
    for (name, rows), marker, colour in zip(groups.items(), MARKERS, COLOURS, strict=False):
        mean, spread = mean_std(rows, y)
        at = mean_std(rows, x)[0] * scale
        axis.errorbar(at, mean, spread, fmt=marker, color=colour, markersize=7, capsize=3, label=name)


def below(figure: Figure, axis: Axes, columns: int = 2) -> None:
    """The legend of a panel, under all of them."""
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False, fontsize=10
    )


def levels(axis: Axes, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first on top."""
    axis.set_yticks(range(len(names)), names, fontsize=10)
    axis.invert_yaxis()


def compared(name: str, height: float) -> Figure:
    """Quality against the multiply-adds of an image."""
    figure, axis = plt.subplots(figsize=(WIDTH, height))
    scatter(axis, grouped(rows_of(name), "name"), "macs_per_image", "fd_pixels", 1e-6)
    axis.set(xlabel="M multiply-adds per image", ylabel="fd_pixels (lower is better)", ylim=(0, None))
    below(figure, axis)
    return figure


@picture
def digits() -> Figure:
    """Four denoisers of `make demo`."""
    return compared("digits_cpu", 3.6)


@picture
def missing_u() -> Figure:
    """The Missing U's networks and its baseline."""
    return compared("missing_u_digits_cpu", 3.8)


@picture
def plans() -> Figure:
    """Quality against the share of the multiply-adds, of plans and of one effort throughout; three plans of seed 0."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.0))
    axes[0, 1].sharey(axes[0, 0])
    for column, (recipe, rows) in enumerate(grouped(rows_of("plans_digits_cpu"), "recipe").items()):
        quality, steps = axes[:, column]
        for kind, label, marker, colour in (
            ("exact", "plans", "o", COLOURS[0]),
            ("effort", "one effort", "s", COLOURS[1]),
        ):
            chosen = [row for row in rows if row["plan"].startswith(kind)]
            for budget in grouped(chosen, "budget" if kind == "exact" else "plan").values():
                mean, spread = mean_std(budget, "fd_pixels")
                share = mean_std(budget, "macs_share")[0]
                first = label not in quality.get_legend_handles_labels()[1]
                quality.errorbar(
                    share, mean, spread, fmt=marker, color=colour, capsize=3, label=label if first else None
                )
        log_snr = torch.linspace(8, -8, 81).tolist()
        for row in rows:
            if row["training_seed"] == "0" and row["budget"]:
                found = dz.Plan.from_json(row["json"])
                steps.step(log_snr, [found.effort(value) for value in log_snr], label=f"plan at {row['budget']}")
        quality.set(title=recipe, xlabel="share of the multiply-adds")
        steps.set(xlabel="log-SNR, image to noise", xlim=(8, -8), ylabel="solver steps" if column else "width")
        steps.set_yticks(sorted({found.effort(value) for value in log_snr} | {1.0}))
    axes[0, 0].set_ylabel("fd_pixels")
    axes[0, 0].legend(frameon=False, fontsize=10)
    below(figure, axes[1, 0], 3)
    return figure


@picture
def multiscale() -> Figure:
    """Time of an image of 128 pixels, and quality on digits, against uniform networks."""
    figure, (time, quality) = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    rows = rows_of("multiscale_128_cpu")[:4]
    for i, row in enumerate(rows):
        uniform = row["name"].startswith("vanilla")
        time.bar(i + (i > 1) * 0.6, float(row["ms_per_image"]) / 1e3, color=COLOURS[1 if uniform else 0])
    time.set(xticks=[0.5, 3.1], xticklabels=["batch 1", "batch 4"], ylabel="s per image", title="128 pixels")
    found = grouped(rows_of("multiscale_digits_cpu")[6:12], "name")
    scatter(
        quality, {"multi-scale": found["multiscale"], "uniform": found["uniform"]}, "macs_per_image", "fd_pixels", 1e-6
    )
    quality.set(xlabel="M multiply-adds per image", ylabel="fd_pixels", ylim=(0, None), xlim=(0, 800), title="digits")
    below(figure, quality)
    return figure


@picture
def multiscale_sizes() -> Figure:
    """How much faster small multi-scale networks are, by size of the image."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    rows = [row for row in rows_of("multiscale_small_cpu") if row["speed_up"]]
    for (batch, found), marker in zip(grouped(rows, "batch_size").items(), MARKERS, strict=False):
        pixels = [int(row["resolution"]) for row in found]
        axis.plot(pixels, [float(row["speed_up"]) for row in found], marker + "-", label=f"batch {batch}")
    axis.set_xscale("log", base=2)
    axis.set(xlabel="pixels", ylabel="times as fast", ylim=(0, None), xticks=pixels, xticklabels=pixels)
    axis.legend(frameon=False)
    return figure


UDPM = {
    "digits/udpm": "L1, perceptual, adversarial",
    "digits/udpm_l1_perceptual": "L1, perceptual",
    "digits/udpm_l1": "L1",
    "digits/udpm_perceptual_adversarial": "perceptual, adversarial",
    "digits/udpm_l1_adversarial": "L1, adversarial",
    "digits/ddpm_vp": "DDPM, ddim",
    "digits/ddpm_edm": "EDM, heun",
}
"""Recipe -> what it trains with."""


@picture
def udpm() -> Figure:
    """Distance of UDPM's images by parts of its loss, and of two that do not halve."""
    rows = grouped(rows_of("udpm_digits_cpu"), "recipe")
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    for i, recipe in enumerate(UDPM):
        mean, spread = mean_std(rows[recipe], "fd_pixels")
        axis.errorbar(mean, i, xerr=spread, fmt="o", capsize=3, color=COLOURS[0 if "udpm" in recipe else 1])
    levels(axis, [f"{name}: {rows[recipe][0]['nfe']} calls" for recipe, name in UDPM.items()])
    axis.set(xscale="log", xlabel="fd_pixels (lower is better)")
    return figure


@picture
def samplers() -> Figure:
    """Quality against calls of each sampler on three processes."""
    runs = {
        "variance preserving": ("samplers_digits_cpu", "ddpm_vp_continuous"),
        "blurring": ("samplers_blurring_cpu", "ddpm_blurring"),
        "Langevin": ("samplers_digits_cpu", "ddpm_cld"),
    }
    names = ("gddim", "gddim:q=2", "gddim:q=3", "euler_maruyama", "heun")
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 7.6), sharex=True)
    for axis, (title, (file, run)) in zip(axes, runs.items(), strict=True):
        found = grouped((row for row in rows_of(file) if row["run"] == run and int(row["nfe"]) < 60), "sampler")
        for name, marker in zip(names, MARKERS, strict=False):
            calls, distance = zip(*((int(row["nfe"]), float(row["fd_pixels"])) for row in found[name]), strict=True)
            axis.plot(calls, distance, marker + "-", ms=5, label=name)
        axis.set(title=title, yscale="log", ylabel="fd_pixels")
    axes[-1].set_xlabel("calls")
    below(figure, axes[0], 3)
    return figure


@picture
def sampler_errors() -> Figure:
    """How far samplers end from the exact flow, on two grids of EDM's noise levels."""
    names = ("ddim", "gddim:q=3", "dpmpp_2m", "dpmpp_3m", "deis:order=3", "unipc:order=3")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2), sharey=True)
    rows = [row for row in rows_of("sampler_errors_cpu") if row["process"] == "edm"]
    for axis, grid in zip(axes, ("karras", "ays_sdxl"), strict=True):
        found = grouped((row for row in rows if row["time_grid"] == grid), "sampler")
        for name, marker in zip(names, MARKERS, strict=False):
            calls, errors = zip(*((int(row["calls"]), 1e3 * float(row["rmse"])) for row in found[name]), strict=True)
            axis.plot(calls, errors, marker + "-", ms=5, label=name)
        axis.set(title=grid, xlabel="calls", xscale="log", yscale="log", xticks=calls, xticklabels=calls)
        axis.minorticks_off()
    axes[0].set_ylabel("error, thousandths")
    below(figure, axes[0], 3)
    return figure


EDGES = {
    "edges_cde": "CDE",
    "edges_augmented": "noise-augmented",
    "edges_cmde": "CMDE, `sigma_max: 1`",
    "edges_vs_cmde": "VS-CMDE",
    "edges_cdiffe": "CDiffE",
}
"""Job -> its way to condition."""


@picture
def edges() -> Figure:
    """Edges to digits: what five ways to condition reach, and how much their draws differ."""
    rows = grouped(rows_of("edges_digits_cpu"), "name")
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    scatter(axis, {name.replace("`", ""): rows[job] for job, name in EDGES.items()}, "diversity", "psnr")
    axis.set(xlabel="diversity of the draws for one condition", ylabel="PSNR, dB (higher is better)")
    below(figure, axis)
    return figure


FAST = {
    ("runs/fast/denoise_ddpm", "ddpm"): "DDPM, 1,000 steps, ancestral",
    ("runs/fast/denoise_fast_ddpm", "ddim:time_grid=fast_uniform"): "Fast-DDPM, uniform list",
    ("runs/fast/denoise_fast_ddpm_even", "ddim:time_grid=fast_even"): "Fast-DDPM, ten even steps",
    ("runs/fast/denoise_fast_ddpm_nonuniform", "ddim:time_grid=fast_nonuniform"): "Fast-DDPM, non-uniform list",
    ("runs/fast/denoise_ddpm", "ddim:time_grid=fast_uniform"): "DDPM, 1,000 steps, `ddim` on the uniform list",
    ("runs/fast/denoise_regression", "ddim:time_grid=fast_uniform"): "one-shot regressor",
}
"""(Run, sampler) -> what was trained."""


def fast_rows() -> dict[str, Rows]:
    """Rows of `fast_digits_cpu` by what was trained."""
    rows = [row | {"run": row["run"].rpartition("/")[0]} for row in rows_of("fast_digits_cpu")]
    found = grouped(rows, "run", "sampler")
    return {name: found[key] for key, name in FAST.items()}


@picture
def fast_ddpm() -> Figure:
    """PSNR of digits freed from noise against calls."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    scatter(axis, {name.replace("`", ""): rows for name, rows in fast_rows().items()}, "nfe", "psnr")
    axis.set(xscale="log", xlabel="calls", ylabel="PSNR, dB (higher is better)")
    below(figure, axis, 1)
    return figure


CHANNEL = {
    "channel_regression": "one-shot regressor",
    "channel_matched, mean of 5": "`channel_matched`, mean of five draws",
    "channel_matched": "`channel_matched`, a draw",
    "BPSK link": "digital link: transform, BPSK",
    "linear MMSE": "linear MMSE, full covariance",
    "uncoded pixels": "digital link: uncoded pixels",
    "pixelwise MMSE": "linear MMSE of each pixel",
}
"""Method -> what it is."""


@picture
def channel() -> Figure:
    """Error of receivers at -5 dB."""
    rows = grouped(rows_of("channel_digits32_cpu"), "method")
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    for i, method in enumerate(CHANNEL):
        (row,) = rows[method]
        axis.errorbar(float(row["mse_db"]), i, xerr=float(row["mse_db_std"] or 0), fmt="o", capsize=3, color=COLOURS[0])
    levels(axis, [name.replace("`", "") for name in CHANNEL.values()])
    axis.set(xlabel="MSE, dB (lower is better)")
    return figure


@picture
def peers() -> Figure:
    """Our time over that of diffusers for the same weights, 10th to 90th percentile of the rounds."""
    rows = rows_of("peers_cpu")
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    for i, row in enumerate(rows):
        ratio, low, high = (float(row[key]) for key in ("ratio", "ratio_p10", "ratio_p90"))
        axis.errorbar(ratio, i, xerr=[[ratio - low], [high - ratio]], fmt="o", capsize=3, color=COLOURS[0])
    axis.axvline(1, color="grey", lw=1)
    levels(axis, [f"{row['case']}, batch {row['batch_size']}" for row in rows])
    axis.set(xlabel="our time / that of diffusers, eager", xlim=(0.5, 1.1))
    return figure


@picture
def onnx() -> Figure:
    """Largest difference between onnxruntime and PyTorch, by size of the network."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.0))
    for (name, rows), marker, colour in zip(
        grouped(rows_of("onnx_parity_cpu"), "denoiser").items(), MARKERS * 2, COLOURS * 2, strict=False
    ):
        macs, difference = zip(*((float(row["macs"]) / 1e9, float(row["difference"])) for row in rows), strict=True)
        axis.plot(macs, difference, marker, color=colour, label=name)
    axis.set(xscale="log", yscale="log", xlabel="G multiply-adds", ylabel="largest difference")
    below(figure, axis)
    return figure


def features(data: str) -> Figure:
    """Distances of degraded images in several features, over those of untouched ones."""
    rows = rows_of(f"features_{data}_cpu")
    found = grouped(rows, "degradation", "features")
    kinds, names = dict.fromkeys(row["degradation"] for row in rows), dict.fromkeys(row["features"] for row in rows)
    figure, axes = plt.subplots(3, 2, figsize=(WIDTH, 7.0), sharex=True)
    for axis, kind in zip(axes.flat, kinds, strict=True):
        for name in names:
            levels = sorted((int(row["level"]), float(row["over_clean"])) for row in found[kind, name])
            axis.plot(*zip(*levels, strict=True), marker="o", markersize=3, label=name)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(title=kind, yscale="log", xticks=range(5))
    for axis in axes[-1]:
        axis.set_xlabel("level of degradation")
    figure.supylabel("distance / that of untouched images", fontsize=12)
    below(figure, axes[0, 0], 3)
    return figure


@picture
def features_digits() -> Figure:
    """Of digits."""
    return features("digits")


@picture
def features_photos32() -> Figure:
    """Of photographs."""
    return features("photos32")


@picture
def extraction() -> Figure:
    """Share of time saved over the share of multiply-adds saved, for DDSM's plan on two machines."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharey=True)
    for axis, (device, rows) in zip(
        axes, sorted(grouped(rows_of("extraction_cpu"), "device_name").items()), strict=True
    ):
        for (mode, found), marker in zip(sorted(grouped(rows, "mode").items()), MARKERS, strict=False):
            first = {int(row["batch_size"]): float(row["share_of_macs_saved"]) for row in reversed(found)}
            axis.plot(range(3), [first[batch] for batch in (1, 8, 32)], marker + "-", label=mode)
        axis.set(
            title=device.partition("(R) Processor")[0].replace("Intel(R) ", ""),
            xlabel="batch",
            xticks=range(3),
            xticklabels=[1, 8, 32],
        )
        axis.axhline(1, color="grey", lw=0.8)
    axes[0].set_ylabel("time saved / MACs saved")
    below(figure, axes[0], 3)
    return figure


@picture
def missing_u_solvers() -> Figure:
    """Quality against evaluations of the vector field, trained at two steps and at mixed steps."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8), sharey=True)
    for axis, (run, title) in zip(
        axes, {"full": "trained at two steps", "random": "at mixed steps"}.items(), strict=True
    ):
        found = grouped((row for row in rows_of("missing_u_solvers_cpu") if row["run"] == run), "solver")
        for (solver, rows), marker in zip(found.items(), MARKERS, strict=False):
            calls, distance = zip(*((int(row["inner_nfe"]), float(row["fd_pixels"])) for row in rows), strict=True)
            axis.plot(calls, distance, marker + "-", ms=5, label=solver.partition(" ")[2] or solver)
        axis.set(title=title, xlabel="evaluations per image", xscale="log", yscale="log")
    axes[0].set_ylabel("fd_pixels")
    below(figure, axes[0], 3)
    return figure


@picture
def missing_u_robustness() -> Figure:
    """PSNR of digits freed from noise in one call, over that of the noisy ones."""
    rows = [row | {"recipe": row["run"].partition("/")[0]} for row in rows_of("missing_u_robustness_cpu")]
    rows = [row for row in rows if row["psnr_one_step"]]
    figure, axis = plt.subplots(figsize=(WIDTH, 3.8))
    for (name, found), marker in zip(grouped(rows, "recipe").items(), MARKERS, strict=False):
        by_noise = grouped(found, "eps")
        gains = [mean_std(some, "psnr")[0] - float(some[0]["noisy_psnr"]) for some in by_noise.values()]
        axis.plot([float(eps) for eps in by_noise], gains, marker + "-", ms=5, label=name)
    axis.set(xlabel="standard deviation of the noise", ylabel="PSNR gained, dB")
    below(figure, axis)
    return figure
