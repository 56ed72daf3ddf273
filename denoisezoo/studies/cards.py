"""The card of every row of a study: the machine, the command, and how the networks in it were trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoisezoo.runs.run import Run
    from denoisezoo.studies.study import Row

UNTRAINED = ("memory", "resolutions", "features")
"""Studies of registered networks, or of images; the others' subjects are runs."""

ON_CPU = ("memory", "robustness", "semigroup", "features")
"""Studies that know no other device."""

FACTS = ("images_seen", "train_steps", "train_seconds", "train_macs", "perceptual", "teacher_sha256")
OF_ROW = (
    "dataset",
    "dataset_sha256",
    "features",
    "features_sha256",
    "sampler",
    "steps",
    "nfe",
    "resolution",
    "num_generated",
    "params",
    "macs_per_image",
)


def with_cards(rows: Sequence[Row], args: argparse.Namespace, command: str) -> list[Row]:
    """The rows, each with its `card` and the command.

    Args:
        rows: Of a study.
        args: Its arguments.
        command: The command line that repeats it.
    """
    from denoisezoo.runs.run import load_run

    runs = [] if args.study in UNTRAINED else [load_run(path) for path in args.subjects]
    machine = _machine(args)
    return [row | {"card": machine | _of_row(row, _runs_of(row, runs), args), "command": command} for row in rows]


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from denoisezoo.evaluation.card import ResultCard
    from denoisezoo.profiling.machine import parse_device

    on_cpu = args.study in ON_CPU
    device = "cpu" if on_cpu else str(parse_device(args.device))
    terms = {"dtype": "float32" if on_cpu else args.dtype, "compiled": False if on_cpu else args.compile}
    return ResultCard.here(device, threads=torch.get_num_threads(), **terms).as_dict()


def _of_row(row: Row, runs: Sequence[Run], args: argparse.Namespace) -> dict[str, Any]:
    """What the card takes from the row itself, such as the images that a checkpoint has seen, and from its runs."""
    from denoisezoo.evaluation.card import seed_range

    found = training_facts([_facts(run) for run in runs])
    found |= {"sampler": args.sampler} if args.study == "resolutions" else {}
    found |= {key: row[key] for key in (*FACTS, *OF_ROW) if key in row}
    return found | ({"seeds": seed_range(args.seed, row["num_generated"])} if "num_generated" in row else {})


def _facts(run: Run) -> dict[str, Any]:
    params = sum(parameter.numel() for parameter in run.denoiser.backbone.parameters())
    mine = {"weights": run.weights, "training_seed": run.facts.get("seed"), "params": params}
    mine |= run.denoiser.codec.facts()
    return {key: run.facts.get(key) for key in FACTS} | mine


def training_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of a row's runs: one value where all have the same, else all of them in the order of the runs."""
    found = {key: [one[key] for one in facts] for key in (facts[0] if facts else ())}
    return {key: values if any(v != values[0] for v in values) else values[0] for key, values in found.items()}


def _runs_of(row: Row, runs: Sequence[Run]) -> list[Run]:
    """The runs that a row is about: one by its folder, or the seeds that a method's row is the mean of."""
    from denoisezoo.studies.noisy_channel import name_of
    from denoisezoo.studies.study import titles_of

    method = str(row.get("method", "")).partition(", mean of ")[0]
    named = [run for run in runs if method and name_of(run) == method]
    titles = titles_of([run.folder for run in runs])
    return (
        named
        or [run for run, title in zip(runs, titles, strict=True) if row.get("run") in (title, str(run.folder))][:1]
    )
