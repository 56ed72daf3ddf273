"""Where parameters and multiply-adds sit: a tree of modules."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from denoisezoo.profiling.counting import Counts


@dataclass(frozen=True)
class ModuleRow:
    """One module.

    Attributes:
        path: Its path, "" for the network itself.
        type: Its class.
        depth: Its distance from the network itself.
        params: Parameters in it and below, shared ones once.
        macs: Multiply-adds in it and below.
        share: `macs` over those of the network; 0 if that has none.
    """

    path: str
    type: str
    depth: int
    params: int
    macs: int
    share: float


def module_rows(root: nn.Module, counts: Counts, depth: int | None = None) -> list[ModuleRow]:
    """Rows in the order of the network's definition, of all modules that have parameters or cost something.

    Args:
        root: The network that `counts` was made with as root.
        counts: Multiply-adds by path.
        depth: Deepest level to list; None lists all.
    """
    macs_of = macs_by_path(root, counts)
    rows = []
    for path, module in root.named_modules():
        level = path.count(".") + 1 if path else 0
        params = sum(parameter.numel() for parameter in module.parameters())
        macs = macs_of[path]
        if (depth is None or level <= depth) and (params or macs):
            share = macs / counts.macs if counts.macs else 0.0
            rows.append(ModuleRow(path, type(module).__name__, level, params, macs, share))
    return rows


def macs_by_path(root: nn.Module, counts: Counts) -> dict[str, int]:
    """Multiply-adds of every module of `root`; one that is not called itself, such as a list, has those of its parts.

    Args:
        root: The network that `counts` was made with as root.
        counts: Multiply-adds of the modules that were called.
    """
    paths = [path for path, _ in root.named_modules()]
    macs = dict.fromkeys(paths, 0)
    for path in reversed(paths):  # parts stand after their whole
        macs[path] = counts.by_module.get(path, macs[path])
        if path:
            macs[path.rpartition(".")[0]] += macs[path]
    return macs
