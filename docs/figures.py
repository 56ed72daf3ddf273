"""The pictures of the documentation, drawn from the library and from `results/`: `make figures`."""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch

import denoisezoo as dz
from denoisezoo.plans.presets import ddsm_cifar10

try:
    import matplotlib
except ModuleNotFoundError:
    sys.exit("error: matplotlib is not installed; pip install 'denoisezoo[docs]'")
matplotlib.use("svg")
import matplotlib.pyplot as plt  # after the backend is chosen

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLOURS = ("#0072b2", "#d55e00", "#00876a", "#b5569a", "#a87400", "#3e97d1")  # after Okabe and Ito
STYLE = {
    "svg.hashsalt": "denoisezoo",  # the same bytes each time
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
}


def save(figure: plt.Figure, name: str) -> None:
    """Write an SVG on white, which dark pages show as a card."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)


def processes() -> None:
    """alpha and sigma of the scalar processes over their time."""
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
    for axis, name in zip(axes, ("VP", "VE", "EDM", "RectifiedFlow"), strict=True):
        process = getattr(dz.diffusion, name)()
        t = torch.linspace(process.t_min, process.t_max, 200, dtype=torch.float64)
        for label, values in (("alpha, signal", process.alpha(t)), ("sigma, noise", process.sigma(t))):
            axis.plot(t, values, label=label)
        axis.set(title=name, xlabel="t", yscale="log" if name in ("VE", "EDM") else "linear")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, "processes")


def plan() -> None:
    """The widths that DDSM found for CIFAR-10, over the logarithm of the signal-to-noise ratio."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    log_snr = torch.linspace(10, -10, 1000).tolist()
    found = ddsm_cifar10()
    axis.step(log_snr, [found.effort(value) for value in log_snr], where="post")
    axis.set(xlabel="log-SNR, from the image (left) to noise", ylabel="width", ylim=(0, 1.1), xlim=(10, -10))
    save(figure, "plan")


def trajectory() -> None:
    """What each call costs: one network, one under a plan, and one that sees small images first."""
    walks = {
        "ddpm_digits, heun": dz.profile("ddpm_digits", counts_only=True, sampler="heun", steps=10),
        "multiscale_digits, gddim": dz.profile(
            "multiscale_digits", process="multiscale", counts_only=True, sampler="gddim", steps=19
        ),
    }
    figure, axis = plt.subplots(figsize=(7, 2.8))
    for (label, profile), marker in zip(walks.items(), "os", strict=True):
        (row,) = profile.rows()
        calls = row["trajectory"]
        total = f"{row['macs_per_image'] / 1e6:.0f} M in all"
        axis.step(
            range(len(calls)),
            [c["macs"] / 1e6 for c in calls],
            marker + "-",
            where="mid",
            ms=4,
            label=f"{label}: {total}",
        )
    axis.set(xlabel="call, from noise to the image", ylabel="M multiply-adds", ylim=(0, None))
    axis.legend(frameon=False)
    save(figure, "trajectory")


def digits() -> None:
    """Quality against the price of an image, of `make demo`."""
    found = defaultdict(list)
    with (ROOT / "results" / "digits_cpu.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["denoiser"]].append((float(row["macs_per_image"]) / 1e6, float(row["fd_pixels"])))
    figure, axis = plt.subplots(figsize=(7, 3.4))
    below = -1.0
    for (name, points), marker in zip(sorted(found.items(), key=lambda item: item[1][0][1]), "oDs^v*", strict=False):
        macs, distances = zip(*points, strict=True)
        mean, spread = statistics.fmean(distances), statistics.stdev(distances)
        axis.errorbar(macs[0], mean, spread, fmt=marker, markersize=8, capsize=4)
        rise = 10 if mean - below < 0.1 else 0  # names of neighbours do not lie on each other
        axis.annotate(name, (macs[0], mean), (10, rise), textcoords="offset points", va="center")
        below = mean
    axis.set(xlabel="M multiply-adds per image", ylabel="fd_pixels (lower is better)", ylim=(0, None), xlim=(190, 280))
    save(figure, "digits")


def features() -> None:
    """Distances of degraded images in several features, over those of untouched ones."""
    for data in ("digits", "photos32"):
        found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        with (ROOT / "results" / f"features_{data}_cpu.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found[row["degradation"], row["features"]].append((int(row["level"]), float(row["over_clean"])))
        kinds = list(dict.fromkeys(kind for kind, _ in found))
        figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True)
        for axis, kind in zip(axes.flat, kinds, strict=True):
            for name in dict.fromkeys(name for _, name in found):
                axis.plot(*zip(*sorted(found[kind, name]), strict=True), marker="o", markersize=3, label=name)
            axis.axhline(1, color="grey", linewidth=0.8)
            axis.set(title=kind, yscale="log", xticks=range(5), xlabel="level")
        figure.supylabel("distance / that of untouched images")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        save(figure, f"features_{data}")


def calls() -> None:
    """Which network in how many calls: quality of digits against the price of an image, and whether jumps compose."""
    found: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    with (ROOT / "results" / "calls_digits_cpu.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            method, size, _ = row["run"].split("/")
            found[method, size][int(row["nfe"])].append((float(row["macs_per_image"]) / 1e6, float(row["quality"])))
    sizes = sorted({size for _, size in found}, key=lambda size: min(found["diffusion", size].values()))
    figure, axes = plt.subplots(1, len(sizes), figsize=(9, 3.6), sharey=True, sharex=True)
    means = [
        (points[0][0], statistics.fmean(y for _, y in points)) for walks in found.values() for points in walks.values()
    ]
    front = sorted(p for p in means if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in means))
    methods = list(dict.fromkeys(method for method, _ in found))
    for axis, size in zip(axes, sizes, strict=True):
        axis.step(*zip(*front, strict=True), where="post", color="grey", linewidth=5, alpha=0.3, label="best of all")
        for method, colour, marker in zip(methods, (*COLOURS, "#000000"), "osD^v*P", strict=False):
            walks = sorted(found.get((method, size), {}).items())
            if walks:
                xs = [points[0][0] for _, points in walks]
                ys = [statistics.fmean(y for _, y in points) for _, points in walks]
                spread = [statistics.stdev(y for _, y in points) if len(points) > 1 else 0 for _, points in walks]
                axis.errorbar(xs, ys, spread, color=colour, marker=marker, markersize=4, linewidth=1, label=method)
        axis.set(title=f"{size} channels", xscale="log", yscale="log", xlabel="M multiply-adds per image")
    axes[0].set(ylabel="fd_pixels (lower is better)")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    save(figure, "calls_digits")


def semigroup() -> None:
    """One jump against two of half its length."""
    found = defaultdict(list)
    with (ROOT / "results" / "semigroup_digits_cpu.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["run"].split("/")[0]].append((int(row["jumps"]), float(row["error"])))
    figure, axis = plt.subplots(figsize=(7, 2.8))
    for (method, points), marker in zip(found.items(), "osD^v*", strict=False):
        axis.plot(*zip(*points, strict=True), marker=marker, label=method)
    axis.set(xscale="log", yscale="log", xlabel="jumps of a walk", ylabel="error / length of a jump")
    axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"], minor=False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    save(figure, "semigroup_digits")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        for draw in (processes, plan, trajectory, digits, features, calls, semigroup):
            draw()
