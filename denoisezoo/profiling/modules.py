"""Where parameters, multiply-adds, memory and time sit: a tree of modules."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from denoisezoo.profiling.counting import Counts


@dataclass(frozen=True)
class ModuleRow:
    """One module that is called, or that has parameters of its own.

    Attributes:
        path: Its path, "" for the network itself.
        type: Its class.
        depth: How many rows it stands below that of the network.
        params: Parameters in it and below; those that an earlier row has, too, count there.
        macs: Multiply-adds in it and below.
        share: `macs` over those of the network; 0 if that has none.
        activation_bytes: Bytes of the tensors made in it and below, see `Counts.activation_bytes`.
        latency_share: Its time over that of the network; None where nothing was timed.
    """

    path: str
    type: str
    depth: int
    params: int
    macs: int
    share: float
    activation_bytes: int
    latency_share: float | None = None


def module_rows(
    root: nn.Module, counts: Counts, depth: int | None = None, seconds: Mapping[str, float] | None = None
) -> list[ModuleRow]:
    """Rows in the order of the network's definition; lists and other modules that are never called have none.

    Args:
        root: The network that `counts` was made with as root.
        counts: Multiply-adds by path.
        depth: Deepest level to list; None lists all.
        seconds: Time of each module by path, from `module_seconds`.
    """
    params = own_params(root)
    rows: list[ModuleRow] = []
    depths: dict[str, int] = {}
    for path, module in root.named_modules():
        if path and path not in counts.activation_bytes and not params[path]:
            continue
        level = depths[path] = 0 if not path else 1 + max(depths[above] for above in _above(path) if above in depths)
        if depth is not None and level > depth:
            continue
        macs = counts.by_module.get(path, counts.macs if not path else 0)
        inside = sum(own for inner, own in params.items() if _is_in(inner, path))
        rows.append(
            ModuleRow(
                path,
                type(module).__name__,
                level,
                inside,
                macs,
                macs / counts.macs if counts.macs else 0.0,
                counts.activation_bytes.get(path, 0),
                None if seconds is None else seconds.get(path, 0.0) / seconds[""],
            )
        )
    return rows


def own_params(root: nn.Module) -> dict[str, int]:
    """Parameters of each module itself, without its children, by path; shared ones belong to the first."""
    seen: set[nn.Parameter] = set()
    own = {}
    for path, module in root.named_modules():
        fresh = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(fresh)
        own[path] = sum(p.numel() for p in fresh)
    return own


def _above(path: str) -> Iterator[str]:
    """Paths of all modules that hold the one at `path`."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _is_in(inner: str, path: str) -> bool:
    return not path or inner == path or inner.startswith(f"{path}.")


def module_seconds(root: nn.Module, call: Callable[[], Any], device: torch.device, runs: int = 3) -> dict[str, float]:
    """Time that one call spends in each module, children included, by path: medians, clocked by hooks.

    On CUDA every module waits for the device at its beginning and end, so that shares are right but the sum is larger
    than the latency of the undisturbed call.

    Args:
        root: The network.
        call: Calls it.
        device: Where it runs.
        runs: Timed calls, after one that is not.
    """
    paths = {module: path for path, module in root.named_modules()}
    found: dict[str, list[float]] = defaultdict(list)
    for run in range(runs + 1):
        spent = _clock(paths, call, device)
        for path, seconds in spent.items() if run else ():
            found[path].append(seconds)
    return {path: statistics.median(times) for path, times in found.items()}


def _clock(paths: Mapping[nn.Module, str], call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    begun: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def leave(module: nn.Module, *_: Any) -> None:
        spent[paths[module]] += now() - begun.pop()

    hooks = []
    for module in paths:
        hooks.append(module.register_forward_pre_hook(lambda *_: begun.append(now())))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return spent
