"""A picture for each of the eight words, of the objects that it stands for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import denoisezoo as dz
from denoisezoo.compare.bench import loss_curve
from denoisezoo.diffusion import EDM, Blurring, DownSampling, EDMPreconditioning, Haar, MultiScale, create_sampler
from denoisezoo.diffusion.capabilities import dropped_at
from denoisezoo.diffusion.oracle import MixtureOracle, PointsOracle
from denoisezoo.plans.presets import ddsm_cifar10
from drawing import COLOURS, WIDTH, picture


def tile(axis: Axes, image: Tensor, title: str = "") -> None:
    """An image (C, H, W) in [-1, 1], without axes."""
    pixels = image.detach().clamp(-1, 1).add(1).div(2).permute(1, 2, 0).squeeze(-1)
    axis.imshow(pixels.double().numpy(), vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10)
    axis.spines[:].set_visible(False)


def digits() -> tuple[Tensor, Tensor]:
    """The training digits (N, 1, 16, 16) in [-1, 1] and their classes."""
    data = dz.data.Digits()
    return data.images("train").double() / 127.5 - 1, data.labels("train")


def flower(side: int) -> Tensor:
    """The flower of scikit-learn's two photographs, (1, 3, side, side) in [-1, 1]."""
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).double().permute(2, 0, 1)[None]
    return nn.functional.interpolate(pixels[..., 100:640], (side, side), mode="area") / 127.5 - 1


@picture
def backbone() -> Figure:
    """Multiply-adds of each block of a U-Net in the order of its work, in the colour of its height in pixels."""
    network = dz.create_backbone("ddpm_digits")
    (row,) = dz.profile(network, counts_only=True, depth=2).rows()
    macs = {module["path"]: module["macs"] for module in row["modules"]}
    order: list[tuple[str, int]] = []

    def note(path: str) -> None:
        network.get_submodule(path).register_forward_hook(lambda *seen: order.append((path, seen[2].shape[-1])))

    blocks = [f"{part}.{i}" for part in ("encoder", "middle", "decoder") for i in range(len(getattr(network, part)))]
    for path in ("stem", *blocks, "head"):
        note(path)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 16, 16), torch.zeros(1))
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    for colour, size in zip(COLOURS, sorted({size for _, size in order}, reverse=True), strict=False):
        places = [i for i, (_, found) in enumerate(order) if found == size]
        axis.bar(places, [macs[order[i][0]] / 1e6 for i in places], color=colour, label=f"{size} x {size} pixels")
    axis.set(
        xticks=[0, len(order) - 1],
        xticklabels=["stem", "head"],
        ylabel="M multiply-adds",
        title="ddpm_digits, block by block",
    )
    axis.legend(frameon=False, fontsize=10)
    return figure


@picture
def given() -> Figure:
    """What the exact denoiser makes of one noisy digit: told nothing, and told each class."""
    images, classes = digits()
    process, t = EDM(), torch.tensor([1.5], dtype=torch.float64)
    noisy = images[:1] + t * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    figure, axes = plt.subplots(2, 6, figsize=(WIDTH, 2.5))
    tile(axes[0, 0], noisy[0] / 2, "noisy")
    tile(axes[1, 0], PointsOracle(process, images)(noisy, t).u_0[0], "no label")
    for label, axis in enumerate(axes[:, 1:].flat):
        tile(axis, PointsOracle(process, images[classes == label])(noisy, t).u_0[0], f"label {label}")
    return figure


@picture
def processes() -> Figure:
    """alpha and sigma of the scalar processes over their time."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.4))
    for axis, name in zip(axes.flat, ("VP", "VE", "EDM", "RectifiedFlow"), strict=True):
        process = getattr(dz.diffusion, name)()
        t = torch.linspace(process.t_min, process.t_max, 60, dtype=torch.float64)
        for label, values in (("alpha, signal", process.alpha(t)), ("sigma, noise", process.sigma(t))):
            axis.plot(t, values, label=label)
        axis.set(title=name, xlabel="t", yscale="log" if name in ("VE", "EDM") else "linear")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


@picture
def destroyed() -> Figure:
    """One photograph on its way to noise under four processes."""
    photo = flower(48)
    rows = {
        "VP": (dz.diffusion.VP(), (0.1, 0.25, 0.6)),
        "blurring": (Blurring(resolution=48, blur=10.0), (0.15, 0.3, 0.6)),
        "multi-scale": (MultiScale(resolution=48, drop=False), (0.15, 0.3, 0.7)),
        "down-sampling": (DownSampling(resolution=48), (1.0, 2.0, 3.0)),
    }
    eps = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    figure, axes = plt.subplots(len(rows), 4, figsize=(WIDTH, 6.4))
    for line, (name, (process, times)) in zip(axes, rows.items(), strict=True):
        tile(line[0], photo[0])
        line[0].set_ylabel(name)
        for axis, t in zip(line[1:], times, strict=True):
            state = process.perturb(process.basis.encode(photo), eps, torch.tensor([t], dtype=torch.float64))
            side = state.shape[-1] >> dropped_at(process, t)
            tile(axis, process.basis.decode(state[..., :side, :side])[0], f"t = {t:g}")
    return figure


@picture
def codec() -> Figure:
    """A photograph, its sub-bands as the codec `haar` stacks them, and the way back."""
    photo = flower(64)
    haar = Haar()
    z = haar.encode(photo)
    bands = z[0].unflatten(0, (4, 3))
    figure, axes = plt.subplots(1, 6, figsize=(WIDTH, 1.6))
    tile(axes[0], photo[0], "image")
    tile(axes[1], bands[0] / 2, "z: mean")
    for axis, band, name in zip(axes[2:5], bands[1:], ("across", "down", "both"), strict=True):
        tile(axis, 3 * band, name)  # details are faint
    tile(axes[5], haar.decode(z)[0], "decoded")
    return figure


@picture
def denoiser() -> Figure:
    """How EDM's preconditioning mixes state and network, and what an exact denoiser makes of one digit."""
    images, _ = digits()
    process, preconditioning = EDM(), EDMPreconditioning()
    oracle = PointsOracle(process, images)
    figure = plt.figure(figsize=(WIDTH, 4.6))
    grid = figure.add_gridspec(3, 5, height_ratios=(2.2, 1, 1))
    axis = figure.add_subplot(grid[0, :])
    t = torch.logspace(-2, 2, 60, dtype=torch.float64)
    p, q = preconditioning.mix(process, t)
    axis.plot(t, q / (q - t * p), label="c_skip, share of the noisy image")  # alpha is 1
    axis.plot(t, preconditioning.c_out(process, t), label="c_out, share of the network")
    axis.set(xscale="log", xlabel="sigma, noise", title="D = c_skip u + c_out F")
    axis.legend(frameon=False, fontsize=10)
    eps = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for column, sigma in enumerate((0.1, 0.5, 1.0, 2.0, 8.0)):
        time = torch.tensor([sigma], dtype=torch.float64)
        noisy = process.perturb(images[:1], eps, time)
        shown = figure.add_subplot(grid[1, column]), figure.add_subplot(grid[2, column])
        tile(shown[0], noisy[0] / max(1.0, sigma), f"sigma {sigma:g}")
        tile(shown[1], oracle(noisy, time).u_0[0])
        if not column:
            shown[0].set_ylabel("u")
            shown[1].set_ylabel("D")
    return figure


@picture
def sampler() -> Figure:
    """Twelve calls from noise to data of one pixel, whose values are -0.6 or 0.6: the exact denoiser's walks."""
    process, steps = dz.diffusion.RectifiedFlow(), 12
    two = MixtureOracle(process, torch.tensor([-0.6, 0.6]).reshape(2, 1, 1, 1), torch.full((2, 1, 1), 0.01))
    seen: list[tuple[float, Tensor]] = []
    walk = create_sampler("dpmpp_2m")
    u_T = torch.linspace(-2, 2, 20, dtype=torch.float64).reshape(-1, 1, 1, 1)
    result = walk(two, u_T, steps=steps, on_step=lambda step: seen.append((step.t, step.u_t.flatten())))
    times = [t for t, _ in seen] + [0.0]
    states = torch.stack([u for _, u in seen] + [result.images.flatten()])
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    for path in states.T:
        axis.plot(times, path, "o-", color=COLOURS[0] if path[-1] > 0 else COLOURS[1], ms=2.5, lw=0.8)
    axis.set(xlim=(1.02, -0.02), xlabel="t, from noise to the image", ylabel="value of the pixel")
    return figure


@picture
def trajectory() -> Figure:
    """What each call costs: a plain network, and one that sees small images first."""
    walks = {
        "ddpm_digits": dz.profile("ddpm_digits", counts_only=True, sampler="heun", steps=10),
        "multiscale_digits": dz.profile(
            "multiscale_digits", process="multiscale", counts_only=True, sampler="gddim", steps=19
        ),
    }
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    for (label, profile), marker in zip(walks.items(), "os", strict=True):
        (row,) = profile.rows()
        macs = [call["macs"] / 1e6 for call in row["trajectory"]]
        axis.step(
            range(1, len(macs) + 1), macs, marker + "-", where="mid", ms=4, label=f"{label}: {sum(macs):.0f} M in all"
        )
    axis.set(xlabel="call, from noise to the image", ylabel="M multiply-adds", ylim=(0, 20))
    axis.legend(frameon=False)
    return figure


@picture
def effort() -> Figure:
    """Multiply-adds of a call at each effort of two elastic networks."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), width_ratios=(1.2, 1))
    shown = {"slim_ddpm_digits": "width", "missing_u_second_order_digits": "solver steps"}
    for axis, (name, kind), colour in zip(axes, shown.items(), COLOURS, strict=False):
        variant = dz.info(name).variant
        efforts = [f"{effort:g}" for effort in variant.config.efforts]
        axis.bar(efforts, [cost.macs / 1e6 for cost in variant.costs], color=colour)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(kind)
    axes[0].set_ylabel("M multiply-adds of a call")
    return figure


@picture
def plan() -> Figure:
    """The widths that DDSM found for CIFAR-10, over the logarithm of the signal-to-noise ratio."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.8))
    log_snr = torch.linspace(10, -10, 401).tolist()
    found = ddsm_cifar10()
    axis.step(log_snr, [found.effort(value) for value in log_snr], where="post")
    axis.set(xlabel="log-SNR, from the image (left) to noise", ylabel="width", ylim=(0, 1.1), xlim=(10, -10))
    return figure


@picture
def run() -> Figure:
    """What a run keeps of a short training: losses and checkpoints, by step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        dz.train(
            "digits/ddpm",
            trainer={
                "max_steps": 30,
                "default_root_dir": folder,
                "accelerator": "cpu",
                "limit_val_batches": 0,
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
            },
            data={"init_args": {"batch_size": 8}},
            samples={"every_n_steps": 0},
            checkpoint={"every_n_steps": 10},
        )
        curve = loss_curve(folder)
        kept = sorted(int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.ckpt"))
    figure, axis = plt.subplots(figsize=(WIDTH, 2.8))
    axis.plot(*zip(*curve, strict=True), label="training loss")
    for step in kept:
        axis.axvline(step, color=COLOURS[1], lw=1, ls="--", label="checkpoint" if step == kept[0] else None)
    axis.set(xlabel="step", ylim=(0, None), title="digits/ddpm, its first 30 steps")
    axis.legend(frameon=False)
    return figure
