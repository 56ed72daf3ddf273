"""Synthetic comparisons with the shape of real ones: five denoisers, three families, three seeds."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image

from denoisezoo.report import Comparison, RunRecord

# name, denoiser, family, process, fd_pixels, params, MACs per image, ms per image
MODELS = [
    ("ddpm", "ddpm_16", "ddpm", "vp", 0.74, 1_132_801, 1_934_000_000, 21.4),
    ("ddpm-large", "ddpm_16_large", "ddpm", "vp", 0.61, 4_466_049, 7_612_000_000, 61.0),
    ("ddpmpp-edm", "ddpmpp_16", "songunet", "edm", 0.63, 1_261_953, 1_214_000_000, 17.9),
    ("ncsnpp-edm", "ncsnpp_16", "songunet", "edm", 0.98, 1_318_017, 1_430_000_000, 24.2),
    ("adm-small", "adm_16", "adm", "rectified_flow", 1.42, 604_418, 512_000_000, 9.6),
]
FLOOR = 0.52


def png(path: Path, seed: int, size: int = 128, tile: int = 16) -> Path:
    """A grid of blurred noise, each tile another grey blob, as a PNG."""
    rng = np.random.default_rng(seed)
    tiles = size // tile
    y, x = np.mgrid[:tile, :tile] / tile - 0.5
    grid = np.zeros((size, size))
    for row in range(tiles):
        for column in range(tiles):
            cx, cy, width = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0.02, 0.08)
            blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width) + rng.normal(0, 0.05, (tile, tile))
            grid[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile] = blob
    buffer = io.BytesIO()
    Image.fromarray((grid.clip(0, 1) * 255).astype("uint8")).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def run_record(folder: Path, model: tuple, seed: int, rank: int = 0) -> RunRecord:
    """One run whose numbers scatter about those of `model`."""
    name, denoiser, family, process, fd, params, macs, latency = model
    rng = random.Random(f"{name}{seed}")
    fd *= rng.gauss(1, 0.02)
    nfe = 35 if process == "edm" else 50
    sigmas = [80 * (0.002 / 80) ** (i / (nfe - 1)) for i in range(nfe)]
    elastic = [1 + (0.6 if rank == 4 and s < 1 else 0) for s in sigmas]
    per_call = macs / sum(elastic)
    return RunRecord(
        name=name,
        denoiser=denoiser,
        family=family,
        process=process,
        seed=seed,
        metrics={
            "fd_pixels": fd,
            "fd_pixels_halves": FLOOR,
            "fd_pixels_over_halves": fd / FLOOR,
            "precision": min(1.0, 0.9 - 0.1 * fd + rng.gauss(0, 0.01)),
            "recall": min(1.0, 0.8 - 0.12 * fd + rng.gauss(0, 0.01)),
            "nn_ratio": 0.93,
            "memorised_share": 0.0,
        },
        costs={
            "params": params,
            "macs_per_call": round(per_call),
            "macs_per_image": macs,
            "nfe": nfe,
            "latency_ms_per_image": latency * rng.gauss(1, 0.03),
            "latency_ms_p10": latency * 0.95,
            "latency_ms_p90": latency * 1.12,
            "peak_memory_bytes": 3_000_000 + 18 * params,
            "train_seconds": 40 + latency * 1.7 * rng.gauss(1, 0.02),
            "train_macs": macs / nfe * 3 * 64_000,
            "images_per_s_training": 24_000 / latency * rng.gauss(1, 0.02),
        },
        card={
            "data": "digits",
            "data_sha256": "5f2c8a0e" * 8,
            "resolution": 16,
            "images": {"generated": 1797, "reference": 1797},
            "features": "pixels",
            "weights": "ema",
            "sampler": "heun" if process == "edm" else "ddim",
            "steps": 18 if process == "edm" else 50,
            "seed_block": f"{seed * 10_000}-{seed * 10_000 + 1796}",
            "device": "cpu",
            "dtype": "float32",
            "compiled": False,
        },
        loss_curve=[
            (step, (0.05 + 0.02 * rank + math.exp(-step / 60)) * math.exp(rng.gauss(0, 0.12)))
            for step in range(1, 501, 5)
        ],
        loss_by_noise=[
            (-10 + 2 * i, -8 + 2 * i, 0.9 / (1 + math.exp(-(i - 4) / (1.2 + 0.1 * rank))) + 0.02, 640)
            for i in range(10)
        ],
        trajectory=[
            {"call": i, "t": s, "sigma": s, "effort": e, "macs": round(per_call * e), "inner_nfe": 1, "latency_ms": 0.4}
            for i, (s, e) in enumerate(zip(sigmas, elastic, strict=True))
        ],
        samples=str(png(folder / f"{name}-{seed}.png", rank * 10 + seed)),
        neighbours=str(png(folder / f"{name}-{seed}-near.png", rank * 10 + seed + 5)),
        command=f"denoisezoo train --config digits/{name} --seed_everything {seed}",
    )


def comparison(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), models: int = 5) -> Comparison:
    """A whole comparison, its pictures in `folder`."""
    runs = [run_record(folder, model, seed, i) for i, model in enumerate(MODELS[:models]) for seed in seeds]
    return Comparison(
        title="Five denoisers on digits",
        command="denoisezoo compare digits/ddpm digits/ddpm-large digits/ddpmpp-edm digits/ncsnpp-edm digits/adm-small "
        "--budget images=64000 --seeds 0,1,2 --out runs/demo",
        runs=runs,
        data={"name": "digits", "sha256": "5f2c8a0e" * 8, "images": 1797, "resolution": "16 × 16 × 1", "split": "all"},
        terms={"training images": 64_000, "batch size": 128, "weights": "EMA", "images evaluated": 1797},
        real=str(png(folder / "real.png", 99)),
        created="2026-03-01",
        machine={"device": "cpu", "cpu": "4 cores", "memory_gib": 16.0, "torch": "2.13.0", "python": "3.11.7"},
        notes=[],
    )
