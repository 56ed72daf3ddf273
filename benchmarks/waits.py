"""How often the host waits for the device in a step, and how many operators the device runs beside the network.

    python benchmarks/waits.py
    python benchmarks/waits.py --kinds process,sampler --code after --csv results/waits.csv

No GPU is needed: what runs is the path of `cuda:0` on a device that is pretended (`tests/device/pretended.py`), where
waits and launches can be counted exactly, and nothing is timed. "waits" are places in a step at which the host stands
still until the device has finished: numbers that it reads, copies that are not from pinned memory, results whose shape
depends on values. "launches" are operators on the device outside of the network's forward and backward pass: fused and
foreach kernels count once, views and allocations not at all. "host operators" ran on tensors of the CPU meanwhile, and
cost time of the host alone.

Rows of kind "network" are steps of the trainer, with guard, average and log, of the smallest variant of each family;
"waits_log" are those of a step that is logged, beside the others. Rows of kind "process" are the objective, its
backward pass and the loss by noise level for a network of one convolution; rows of kind "objective" are the same for
each objective, teachers, averages and adversaries taken for networks, too; rows of kind "sampler" are steps of a walk.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.train_step import Noise  # noqa: E402
from denoisezoo.archs import Backbone, get_variant, list_denoisers  # noqa: E402
from denoisezoo.archs.encoding import Encoding  # noqa: E402
from denoisezoo.diffusion import (  # noqa: E402
    OBJECTIVES,
    PRECONDITIONINGS,
    PROCESSES,
    SAMPLERS,
    EDMLoss,
    NetworkDenoiser,
    Objective,
    SeedBlock,
    Simple,
    create_sampler,
)
from denoisezoo.diffusion.objectives.objective import Step  # noqa: E402
from denoisezoo.errors import UserError  # noqa: E402
from denoisezoo.train.checkpoint import AtomicCheckpointIO  # noqa: E402
from denoisezoo.train.ema import EMA  # noqa: E402
from denoisezoo.train.fit import quiet  # noqa: E402
from denoisezoo.train.guard import Guard  # noqa: E402
from denoisezoo.train.log import RunLog  # noqa: E402
from denoisezoo.train.module import DiffusionModule  # noqa: E402
from denoisezoo.train.noise_bins import NoiseBins  # noqa: E402
from tests.device.pretended import aside, host, launches, pretend_cuda, waits  # noqa: E402
from tests.device.small import AUTOENCODER, small_batch, small_copy, small_denoiser, small_objective  # noqa: E402

COLUMNS = ("code", "kind", "name", "process", "waits", "waits_log", "launches", "host_operators", "where", "torch")
SAMPLED = {"udpm": "downsampling"}
"""Process that a sampler walks here; vp for the others."""
TRAINED = ("vp", "flow", "edm", "downsampling", AUTOENCODER)
"""Processes of which an objective trains the first that it can."""


class Counts:
    """What `pretended` has counted up to now."""

    def __init__(self) -> None:
        self.waits, self.launches, self.host = Counter(waits), sum(launches.values()), sum(host.values())

    def __sub__(self, other: Counts) -> Counts:
        made = object.__new__(Counts)
        made.waits, made.launches = self.waits - other.waits, self.launches - other.launches
        made.host = self.host - other.host
        return made

    def row(self, steps: int) -> dict[str, Any]:
        """Per step."""
        return {
            "waits": sum(self.waits.values()) / steps,
            "launches": self.launches / steps,
            "host_operators": self.host / steps,
            "where": "; ".join(sorted(self.waits)),
        }


def put_aside(network: torch.nn.Module) -> None:
    """Leave what a network's forward pass launches out of the count."""
    inside = contextlib.ExitStack()
    network.register_forward_pre_hook(lambda *_: inside.enter_context(aside()) and None)
    network.register_forward_hook(lambda *_: inside.close(), always_call=True)


class Watch(Callback):
    """Counts at the beginning of every step; backward passes are put aside."""

    def __init__(self) -> None:
        self.counts: list[Counts] = []
        self._inside = contextlib.ExitStack()

    def on_train_batch_start(self, *_: Any) -> None:
        """Count."""
        self.counts.append(Counts())

    def on_before_backward(self, *_: Any) -> None:
        """Put aside."""
        self._inside.enter_context(aside())

    def on_after_backward(self, *_: Any) -> None:
        """Count again."""
        self._inside.close()


def network_rows() -> Iterator[dict[str, Any]]:
    """A row for the smallest variant of each family."""
    families = {get_variant(name).family.name: name for name in reversed(list_denoisers("*_tiny"))}
    for name in families.values():
        spec = get_variant(name).spec
        if spec.scale > 1 or spec.cond_channels or spec.token_dim or spec.augment_dim:
            options: dict[str, Any] = {"cond_channels": 0, "augment_dim": 0}
        else:
            options = {}
        try:
            yield {"kind": "network", "name": name, **network_row(name, options)}
        except UserError as error:
            print(f"{name:24s} skipped: {error}")


def network_row(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Steps of the trainer: the second and the third are as most are, the fourth is logged."""
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = get_variant(name).build(**options)
    spec = backbone.spec
    made = "downsampling" if spec.scale > 1 else "multiscale" if len(backbone.resolutions) > 1 else "edm"
    process = PROCESSES[made].for_images(spec.resolution, len(backbone.resolutions))
    objective = EDMLoss() if made == "edm" else Simple()
    preconditioning = PRECONDITIONINGS["edm" if made == "edm" else process.default_preconditioning]()
    module = DiffusionModule(name, process, preconditioning, objective, network=options, seed=0)
    data = Noise(process.basis.image_channels(spec.in_channels), spec.resolution, spec.num_classes, 8, batches=25)
    put_aside(module.denoiser.backbone)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, pretend_cuda(), quiet():
        trainer = Trainer(
            max_steps=6,
            max_epochs=-1,
            accelerator="gpu",
            devices=1,
            default_root_dir=folder,
            logger=RunLog(Path(folder), 0),
            log_every_n_steps=4,
            callbacks=[watch, EMA(), Guard()],
            plugins=[AtomicCheckpointIO(survive=True)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(module, datamodule=data, weights_only=True)
    counts = watch.counts
    found, logged = (counts[3] - counts[1]).row(2), (counts[4] - counts[3]).row(1)
    return {"process": made, **found, "waits_log": logged["waits"]}


def process_rows() -> Iterator[dict[str, Any]]:
    """A row for each process, with its usual preconditioning and plain weights."""
    for name in PROCESSES:
        denoiser = small_denoiser(name)
        objective, bins = small_objective("simple", denoiser), NoiseBins()
        put_aside(denoiser.backbone)
        with pretend_cuda():
            denoiser, batch = denoiser.to("cuda"), small_batch(denoiser, device="cuda")
            bins.to(torch.device("cuda:0"))

            yield {
                "kind": "process",
                "name": name,
                "process": name,
                **counted(partial(one_step, denoiser, None, objective, batch, bins)),
            }


def objective_rows() -> Iterator[dict[str, Any]]:
    """A row for each objective, with the usual preconditioning of the process."""
    for name in OBJECTIVES:
        process, denoiser = trained_by(name)
        with pretend_cuda():
            objective, bins = small_objective(name, denoiser), NoiseBins()
            average = small_copy(denoiser).to("cuda") if objective.needs_average else None
            denoiser, batch = denoiser.to("cuda"), small_batch(denoiser, device="cuda")
            bins.to(torch.device("cuda:0"))
            objective.to("cuda")
            beside = [value for value in vars(objective).values() if isinstance(value, torch.nn.Module)]
            for module in (denoiser, *([] if average is None else [average]), *beside):
                for network in [part for part in module.modules() if isinstance(part, Backbone)] or [module]:
                    for part in network.children() if isinstance(network, Encoding) else [network]:
                        put_aside(part)
            step = partial(one_step, denoiser, average, objective, batch, bins)
            yield {"kind": "objective", "name": name, "process": process, **counted(step)}


def trained_by(name: str) -> tuple[str, NetworkDenoiser]:
    """The first of `TRAINED` that an objective trains, and a denoiser of it."""
    for process in TRAINED:
        denoiser = small_denoiser(process)
        with contextlib.suppress(UserError):
            small_objective(name, denoiser)
            return process, denoiser
    raise LookupError(f"{name} trains none of {TRAINED}")


def one_step(
    denoiser: NetworkDenoiser,
    average: NetworkDenoiser | None,
    objective: Objective,
    batch: dict[str, torch.Tensor],
    bins: NoiseBins,
    number: int,
) -> None:
    """What a training step does with times and noise."""
    generator = torch.Generator("cuda").manual_seed(number)
    step = Step(denoiser, batch, generator, number=number, average=average)
    loss = objective(step)
    bins.add(denoiser.process.log_snr(loss.t), loss.per_sample)
    with aside():
        loss.loss.backward()
        for name in objective.opponents:  # almost all of it are passes of a network
            objective.opposing_loss(name, step).backward()


def counted(step: Callable[[int], None]) -> dict[str, Any]:
    """Of steps after two, in which what is needed once was done."""
    for number in range(2):
        step(number)
    before = Counts()
    for number in range(2, 4):
        step(number)
    return (Counts() - before).row(2)


def sampler_rows() -> Iterator[dict[str, Any]]:
    """A row for each sampler: the steps by which a longer walk is longer."""
    for name in SAMPLERS:
        process = SAMPLED.get(name, "vp")
        denoiser = small_denoiser(process).eval()
        put_aside(denoiser.backbone)
        sampler, found = create_sampler(name), []
        walks = (8, 8, 12) if name not in SAMPLED else (denoiser.process.levels,) * 3
        with pretend_cuda():
            denoiser = denoiser.to("cuda")
            for steps in walks:
                before, noise = Counts(), SeedBlock([0, 1])
                u = sampler.prior(denoiser.process, (2, 1, 8, 8), steps, noise, device="cuda", dtype=torch.float32)
                result = sampler(denoiser, u, steps=steps, generator=noise)
                found.append((Counts() - before, result.nfe))
        (one, calls), (other, more) = found[1], found[2]
        if sampler.adaptive:  # its steps are six calls each, whatever `steps` is
            yield {"kind": "sampler", "name": name, "process": process, **one.row(max(1, calls // 6))}
        elif more == calls:
            yield {"kind": "sampler", "name": name, "process": process, **one.row(calls)}
        else:
            yield {"kind": "sampler", "name": name, "process": process, **(other - one).row(4)}


KINDS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "network": network_rows,
    "process": process_rows,
    "objective": objective_rows,
    "sampler": sampler_rows,
}


def main() -> int:
    """Print a line for each network, process, objective and sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which rows")
    parser.add_argument("--code", default="", help="what the rows say of the code that was counted")
    parser.add_argument("--csv", type=Path, help="where to put the rows; more are appended to what is there")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rows = []
    print(f"{'kind':8s} {'name':28s} {'waits':>6s} {'logged':>6s} {'launches':>8s} {'host':>6s}  where")
    for kind in args.kinds.split(","):
        for row in KINDS[kind]():
            rows.append({"code": args.code, **row, "torch": torch.__version__})
            logged = f"{row['waits_log']:6.1f}" if "waits_log" in row else " " * 6
            print(f"{kind:8s} {row['name']:28s} {row['waits']:6.1f} {logged} {row['launches']:8.1f} "
                  f"{row['host_operators']:6.1f}  {row['where']}", flush=True)  # fmt: skip
    if args.csv:
        fresh = not args.csv.exists()
        with open(args.csv, "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
