"""What a training step costs beside the network: Lightning, the average of the weights, the log and the guard.

    python benchmarks/train_step.py ddpm_digits adm_digits --batch-size 64
    python benchmarks/train_step.py "*_cifar10" --device cuda --modes eager,channels_last,compiled,bf16
    python benchmarks/train_step.py ddpm_cifar10 --device cuda --batch-size 512 --modes bf16_eager,bf16_eager_nhwc
    python benchmarks/train_step.py multiscale_digits --process multiscale

For each network and mode, blocks of steps of a bare loop (forward, backward, optimiser on a batch that is already
there) and of the trainer as recipes run it alternate, in one process and on weights of the same kind. "beside" is the
median, with its 95 % interval, of the time of a block of the trainer over the mean of the two bare blocks around it: a
machine whose speed drifts slows all three. The data side is timed by itself: how many images per second the loader
gives, over how many the step takes. "in all" is the whole time of the trainer's blocks over that of the bare ones: the
rare slow step, such as one that writes the log, adds to it and not to a median. Exit status 1 means that the trainer
cost more than `--allowed` of the bare loop somewhere, that the loader was slower than a step, or that a network that
was named was skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from csv_rows import append
from lightning.pytorch import Callback, Trainer

from denoisezoo.allocator import keep_freed_memory
from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.data import ImageData, Split
from denoisezoo.data.loader import TrainLoader
from denoisezoo.data.store import TensorStore
from denoisezoo.diffusion import PRECONDITIONINGS, PROCESSES
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.diffusion.objectives.regression import EDMLoss, Simple
from denoisezoo.errors import UserError
from denoisezoo.profiling.machine import device_name
from denoisezoo.profiling.pairing import median_interval
from denoisezoo.profiling.roofline import peaks
from denoisezoo.train.callbacks import GarbageCollection, Throughput
from denoisezoo.train.checkpoint import AtomicCheckpointIO
from denoisezoo.train.ema import EMA
from denoisezoo.train.fit import quiet
from denoisezoo.train.guard import Guard
from denoisezoo.train.log import RunLog
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.saving import Checkpoints
from denoisezoo.train.stopping import StopOnInterrupt

MODES = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "compiled": {"channels_last": True, "compile": True},
    "bf16": {"channels_last": True, "compile": True},
    "bf16_nchw": {"compile": True},
    "bf16_eager": {},
    "bf16_eager_nhwc": {"channels_last": True},
}
"""How the network is run; the modes that begin with bf16 compute in it, and those without another word are compiled."""
COLUMNS = (
    *("name", "mode", "device", "batch_size", "bare_ms", "trainer_ms", "images_per_s"),
    *("overhead", "overhead_low", "overhead_high", "overhead_total", "rounds"),
    *("flop_per_s", "share_of_peak", "loader_images_per_s", "loader_share", "torch", "device_name"),
)


class Noise(ImageData):
    """Random images in memory, of the size that a network takes."""

    dataset = "noise"

    def __init__(self, channels: int, resolution: int, classes: int, batch_size: int, batches: int) -> None:
        super().__init__(resolution=resolution, batch_size=batch_size, labels=classes > 0)
        self.channels, self.classes, self.count = channels, classes, batch_size * batches

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbers."""
        return tuple(map(str, range(self.classes)))

    def load(self) -> dict[str, Split]:
        """See `ImageData`."""
        shape = (self.count, self.channels, self.resolution, self.resolution)
        images = TensorStore(torch.randint(0, 256, shape, dtype=torch.uint8))
        labels = torch.arange(self.count) % max(1, self.classes)
        return {"train": Split(images, labels), "test": Split(TensorStore(images.images[:0]), labels[:0])}


class Alternate(Callback):
    """After every block of the trainer's steps, runs a block of bare steps, and keeps the times of both."""

    def __init__(self, bare: Bare, block: int, warmup: int) -> None:
        self.bare, self.block, self.warmup = bare, block, warmup
        self.trainer_ms: list[float] = []
        self.bare_ms: list[float] = []
        self._begin = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock of a block before its first batch."""
        if trainer.global_step % self.block or trainer.global_step == 0:
            return
        synchronise(pl_module.device)
        if trainer.global_step > self.warmup:
            self.trainer_ms.append((time.perf_counter() - self._begin) * 1e3 / self.block)
        begin = time.perf_counter()
        for _ in range(self.block):
            self.bare.step()
        synchronise(pl_module.device)
        if trainer.global_step > self.warmup:
            self.bare_ms.append((time.perf_counter() - begin) * 1e3 / self.block)
        self._begin = time.perf_counter()


class Bare:
    """Forward, backward, optimiser: nothing else."""

    def __init__(self, module: DiffusionModule, batch: dict[str, torch.Tensor], dtype: torch.dtype | None) -> None:
        self.module, self.batch, self.dtype = module, batch, dtype
        self.optimizer = module.optimizer_config.build(module.denoiser)
        self.generator = torch.Generator(next(module.parameters()).device).manual_seed(0)

    def step(self) -> None:
        """One step."""
        device = self.generator.device.type
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, self.dtype) if self.dtype else contextlib.nullcontext():
            loss = self.module.objective(Step(self.module.denoiser, self.batch, self.generator)).loss
        loss.backward()
        self.optimizer.step()


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_module(name: str, mode: str, process: str) -> DiffusionModule:
    """A training module of a network: EDM as published, or v-prediction under another process."""
    options = {"channels_last": False, "compile": False} | MODES[mode]
    if process == "edm":
        return DiffusionModule(name, PROCESSES["edm"](), PRECONDITIONINGS["edm"](), EDMLoss(), seed=0, **options)
    with torch.device("meta"):
        backbone = get_variant(name).build()
    built = PROCESSES[process].for_images(backbone.spec.resolution, len(backbone.resolutions))
    return DiffusionModule(name, built, PRECONDITIONINGS["v"](), Simple(), seed=0, **options)


def measure(name: str, mode: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    dtype = torch.bfloat16 if mode.startswith("bf16") else None
    module, twin = (make_module(name, mode, args.process) for _ in range(2))
    twin = twin.to(device)
    spec = module.denoiser.backbone.spec
    # Batches as in a pass over the digits: what Lightning does between passes weighs what it weighs there.
    data = Noise(spec.in_channels, spec.resolution, spec.num_classes, args.batch_size, batches=25)
    data.setup()
    batch = {key: value.to(device) for key, value in data.train_dataloader().batch(0).items()}
    timing = Alternate(Bare(twin, batch, dtype), args.block, args.warmup)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, data, timing, Path(folder), args, dtype)
    bare, trainer = statistics.median(timing.bare_ms), statistics.median(timing.trainer_ms)
    rate, loader = 1e3 * args.batch_size / trainer, loader_rate(data.train_dataloader())
    flops = rate * 2 * twin.training_macs()
    return {
        "name": name,
        "mode": mode,
        "device": args.device,
        "batch_size": args.batch_size,
        "bare_ms": bare,
        "trainer_ms": trainer,
        **beside(timing),
        "images_per_s": rate,
        "flop_per_s": flops,
        "share_of_peak": flops / peaks(device, dtype or torch.float32).flops_per_s,
        "loader_images_per_s": loader,
        "loader_share": rate / loader,
        "torch": torch.__version__,
        "device_name": device_name(device),
    }


def beside(timing: Alternate) -> dict[str, float]:
    """What the trainer costs beside the bare loop, as a share of it."""
    around = [(a + b) / 2 for a, b in itertools.pairwise(timing.bare_ms)]
    trainer_ms = timing.trainer_ms[1:]
    ratios = [trainer / bare for trainer, bare in zip(trainer_ms, around, strict=True)]
    low, high, _ = median_interval(ratios)
    return {
        "overhead": statistics.median(ratios) - 1,
        "overhead_low": low - 1,
        "overhead_high": high - 1,
        "overhead_total": sum(trainer_ms) / sum(around) - 1,
        "rounds": len(ratios),
    }


def fit(
    module: DiffusionModule,
    data: ImageData,
    timing: Alternate,
    folder: Path,
    args: argparse.Namespace,
    dtype: torch.dtype | None,
) -> None:
    """Train as recipes do: throughput, average, guard, log and checkpoints; the checkpoint itself comes at the end."""
    checkpoints = Checkpoints(every_n_steps=10**9)
    checkpoints.dirpath = folder / "checkpoints"
    trainer = Trainer(
        max_steps=args.warmup + args.block * (args.rounds + 1) + 1,
        max_epochs=-1,
        accelerator="gpu" if args.device.startswith("cuda") else "cpu",
        devices=1,
        precision="bf16-mixed" if dtype else "32-true",
        default_root_dir=folder,
        logger=RunLog(folder, 0),
        log_every_n_steps=10,  # as the shipped recipes for digits
        callbacks=[StopOnInterrupt(), Throughput(), GarbageCollection(), EMA(), Guard(), timing, checkpoints],
        plugins=[AtomicCheckpointIO(survive=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
    )
    with quiet():
        trainer.fit(module, datamodule=data, weights_only=True)


def loader_rate(loader: TrainLoader, seconds: float = 0.5) -> float:
    """Images per second that the data side gives when nothing waits for it."""
    begin, images = time.perf_counter(), 0
    for batch in forever(loader):
        images += len(batch["image"])
        if (spent := time.perf_counter() - begin) > seconds:
            return images / spent
    raise AssertionError("a loader is endless")


def forever(loader: TrainLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Pass after pass."""
    while True:
        yield from loader


def default_names() -> list[str]:
    """One network of each family: the variant for digits where there is one, else the smallest."""
    found: dict[str, str] = {}
    for name in list_denoisers():
        family = get_variant(name).family.name
        if family not in found or name.endswith("_digits"):
            found.setdefault(family, name)
            found[family] = name if name.endswith("_digits") else found[family]
    return list(found.values())


def main() -> int:
    """Print a line for each network and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks or patterns; default: one of each family")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--process", default="edm", help="; ".join(PROCESSES))
    parser.add_argument("--modes", default="eager,channels_last", help=", ".join(MODES))
    parser.add_argument("--block", type=int, default=10, help="steps between changes of side")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each side")
    parser.add_argument("--warmup", type=int, default=10, help="steps before the first")
    parser.add_argument("--allowed", type=float, default=0.05, help="what the trainer may cost beside the bare loop")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--append", action="store_true", help="keep the rows that the file has")
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does; for both sides
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rows, skipped = measure_all(args)
    failed = any(row["overhead"] > args.allowed or row["loader_share"] > 1 for row in rows)
    return int(failed or bool(skipped and args.names))


def measure_all(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, each printed as it comes, and the networks that could not be measured."""
    found = {pattern: list_denoisers(pattern) for pattern in args.names}
    names = [name for matching in found.values() for name in matching] if found else default_names()
    rows, skipped = list[dict[str, Any]](), [pattern for pattern, matching in found.items() if not matching]
    for pattern in skipped:
        print(f"{pattern:24s} skipped: there is no such network")
    print(HEAD)
    if args.csv and not (args.append and args.csv.exists()):
        args.csv.unlink(missing_ok=True)
    for name, mode in itertools.product(names, args.modes.split(",")):
        try:
            rows.append(measure(name, mode, args))
        except UserError as error:  # a process is not for every network
            print(f"{name:24s} skipped: {error}")
            skipped.append(name)
            continue
        print(line(rows[-1]), flush=True)
        if args.csv:
            append(args.csv, {column: rows[-1][column] for column in COLUMNS})
    return rows, skipped


HEAD = f"{'network':24s} {'mode':14s} {'bare ms':>9s} {'trainer ms':>10s} {'beside':>7s} {'images/s':>9s} {'peak':>6s}"


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    return (
        f"{row['name']:24s} {row['mode']:14s} {row['bare_ms']:9.2f} {row['trainer_ms']:10.2f} {row['overhead']:7.1%} "
        f"({row['overhead_low']:.1%} to {row['overhead_high']:.1%}; in all {row['overhead_total']:.1%}) "
        f"{row['images_per_s']:9.0f} {row['share_of_peak']:6.1%}  data side {row['loader_share']:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
