"""Networks for few calls: pictures that are there once `results/` has what they show."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from drawing import COLOURS, MARKERS, ROOT, WIDTH, grouped, mean_std, picture, rows_of

Draw = Callable[[], Figure]


def measured(name: str) -> Callable[[Draw], Draw]:
    """Register a picture if `results/NAME.csv` is there."""
    return picture if (ROOT / "results" / f"{name}.csv").exists() else lambda draw: draw


@measured("calls_digits_cpu")
def calls_digits() -> Figure:
    """Which network in how many calls: quality of digits against the price of an image, by size of the network."""
    rows = [
        row | {"method": method, "size": size, "M MACs": str(float(row["macs_per_image"]) / 1e6)}
        for row in rows_of("calls_digits_cpu")
        for method, size, _ in [row["run"].split("/")]
    ]
    walks = grouped(rows, "size", "method", "nfe")
    means = {key: (mean_std(some, "M MACs")[0], *mean_std(some, "quality")) for key, some in walks.items()}
    udpm = [row | {"M MACs": str(float(row["macs_per_image"]) / 1e6)} for row in rows_of("udpm_digits_cpu")]
    three = [row for row in udpm if row["recipe"] == "digits/udpm"]
    price, (distance, spread) = mean_std(three, "M MACs")[0], mean_std(three, "fd_pixels")
    points = [(x, y) for x, y, _ in means.values()]
    front = sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points))
    methods = list(grouped(rows, "method"))
    sizes = sorted(grouped(rows, "size"), key=lambda size: min(x for key, (x, *_) in means.items() if key[0] == size))
    figure, axes = plt.subplots(len(sizes), 1, figsize=(WIDTH, 3 * len(sizes)), sharey=True, sharex=True, squeeze=False)
    for axis, size in zip(axes.flat, sizes, strict=True):
        axis.step(*zip(*front, strict=True), where="post", color="grey", linewidth=5, alpha=0.3, label="best of all")
        for method, colour, marker in zip(methods, (*COLOURS, "#000000"), MARKERS, strict=False):
            found = sorted(point for key, point in means.items() if key[:2] == (size, method))
            if found:
                axis.errorbar(*zip(*found, strict=True), color=colour, marker=marker, ms=5, lw=1, label=method)
        if size == "8":  # of as many parameters as UDPM's network
            axis.errorbar(price, distance, spread, color="#888888", marker="*", ms=8, lw=1, label="udpm, 3 calls")
        axis.set(title=f"{size} channels", xscale="log", yscale="log", ylabel="fd_pixels")
    axes[-1, 0].set_xlabel("M multiply-adds per image")
    labels = {label: mark for axis in axes.flat for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


@measured("semigroup_digits_cpu")
def semigroup_digits() -> Figure:
    """One jump against two of half its length."""
    rows = [row | {"method": row["run"].partition("/")[0]} for row in rows_of("semigroup_digits_cpu")]
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    for (method, found), marker in zip(grouped(rows, "method").items(), MARKERS, strict=False):
        jumps, errors = zip(*((int(row["jumps"]), float(row["error"])) for row in found), strict=True)
        axis.plot(jumps, errors, marker + "-", ms=5, label=method)
    axis.set(xscale="log", yscale="log", xlabel="jumps of a walk", ylabel="error / length of a jump")
    axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axis.xaxis.minorticks_off()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure
