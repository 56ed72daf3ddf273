"""Latents beside pixels, plans on latents, autoencoders, and dense prediction: pictures and tables."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from drawing import COLOURS, MARKERS, WIDTH, grouped, mean_std, picture, rows_of
from drawing.results import below
from drawing.tables import Table, pm, table

SIDES = {
    "pixels": "pixels",
    "latents, autoencoder included": "latents, the autoencoder's time taken off",
    "latents, autoencoder excluded": "latents, the autoencoder for nothing",
}
FEATURES = ("pixels", "efflite0")
PRICES = (20, 50, 100, 200, 400)
WAYS = {
    "regression": "one-shot regressor",
    "concat": "conditional diffusion",
    "finetuned": "the same, from `digits/ddpm`",
    "drift": "the image in the noise's place",
}


@picture
def latents() -> Figure:
    """Quality against the price of an image, the decoder included, of pixels and latents trained for as long."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    for axis, features in zip(axes, FEATURES, strict=True):
        rows = [
            row | {"M MACs": str(float(row["macs_per_image"]) / 1e6)}
            for row in rows_of("latents_digits_cpu")
            if row["features"] == features
        ]
        for (side, some), colour, marker in zip(grouped(rows, "side").items(), COLOURS, MARKERS, strict=False):
            walks = grouped(some, "nfe").values()
            points = [(mean_std(walk, "M MACs")[0], *mean_std(walk, "distance")) for walk in walks]
            axis.errorbar(*zip(*points, strict=True), color=colour, marker=marker, ms=5, lw=1, capsize=3, label=side)
        axis.set(title=f"fd_{features}", xlabel="M multiply-adds per image", xscale="log", ylim=(0, None))
        axis.set_xticks(PRICES, map(str, PRICES))
        axis.minorticks_off()
    below(figure, axes[0], 1)
    return figure


@table
def latents_digits() -> Table:
    """Distance in two feature spaces by calls, and what an image costs."""
    rows, counts = rows_of("latents_digits_cpu"), ("4", "8", "15", "30")
    made = [["trained on", "features", *(f"{nfe} calls" for nfe in counts)]]
    for side, name in SIDES.items():
        own = [row for row in rows if row["side"] == side]
        for features in FEATURES:
            found = grouped((row for row in own if row["features"] == features), "nfe")
            made.append([name, f"`{features}`", *(pm(found[nfe], "distance", 2) for nfe in counts)])
        prices = grouped(own, "nfe")
        made.append(["", "M MACs per image", *(f"{float(prices[n][0]['macs_per_image']) / 1e6:.0f}" for n in counts)])
    return made[:-1]  # both latents cost the same


@table
def latents_times() -> Table:
    """Milliseconds for an image, at batch 1 and 8."""
    made = [["batch", "", "4 calls", "8 calls", "15 calls", "30 calls"]]
    for (batch, side), rows in grouped(rows_of("latents_times_cpu"), "batch_size", "side").items():
        made.append([batch, side, *(f"{float(row['ms_per_image']):.1f}" for row in rows)])
    return made[:1] + sorted(made[1:])


@table
def latent_plans() -> Table:
    """Plans and single efforts on latents, by training and calls."""
    groups = grouped(rows_of("plans_latent_digits_cpu"), "training", "calls")
    heading = ["share of the MACs, decoder included"]
    heading += [f"{calls.replace(' ', ', ')} calls; {training} of training" for training, calls in groups]
    made = [heading]
    plans = {
        "effort 1": "full network",
        "exact 0.5": "plan at 0.5",
        "exact 0.4": "plan at 0.4",
        "exact 0.3": "plan at 0.3",
    }
    for plan, name in (plans | {"effort 0.75": "width 0.75 throughout", "effort 0.5": "width 0.5 throughout"}).items():
        cells = []
        for found in groups.values():
            some = [row for row in found if row["plan"] == plan]
            shares = sorted({f"{float(row['macs_share']):.3f}" for row in some})
            cells.append(f"{pm(some, 'quality', 3)} ({' to '.join(dict.fromkeys([shares[0], shares[-1]]))})")
        made.append([name, *cells])
    return made


@table
def autoencoders() -> Table:
    """What comes back of held-out images, and what each way costs."""
    made = [["recipe", "seeds", "steps", "minutes", "PSNR dB", "SSIM", "`fd_efflite0`", "M MACs to encode, decode"]]
    for recipe, rows in grouped(rows_of("autoencoders_cpu"), "recipe").items():
        several = len(rows) > 1
        figures = [pm(rows, key, digits) for key, digits in (("psnr", 2), ("ssim", 4), ("fd_efflite0", 1))]
        macs = (f"{float(rows[0][f'{way}code_macs']) / 1e6:.1f}" for way in ("en", "de"))
        made.append(
            [
                f"`{recipe}`",
                str(len(rows)),
                f"{int(rows[0]['train_steps']):,}",
                f"{mean_std(rows, 'train_seconds')[0] / 60:.1f}",
                *(figure if several else figure.partition(" ")[0] for figure in figures),
                ", ".join(macs),
            ]
        )
    return made


@table
def strokes() -> Table:
    """The four ways to a map of an image."""
    made = [["way", "calls", "M MACs", "PSNR dB", "IoU", "mean of 5 draws: MSE dB", "`fd_pixels`"]]
    shown = (row for row in rows_of("strokes_digits_cpu") if row["nfe"] in ("1", "15"))
    for (way, nfe), rows in grouped(shown, "way", "nfe").items():
        price = f"{float(rows[0]['macs_per_image']) / 1e6:.0f}"
        figures = [pm(rows, key, n) for key, n in {"psnr": 2, "iou": 3, "mse_db_mean": 2, "fd_pixels": 2}.items()]
        made.append([WAYS[way], nfe, price, *figures])
    return made
