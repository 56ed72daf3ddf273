"""A second counter, fvcore's, beside our own, and why the two differ.

It traces the network, counts norms and resampling too, and has no rule for fused attention.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.profiling.profile import Row
from denoisezoo.profiling.setting import Setting, example_inputs
from denoisezoo.profiling.state import undisturbed

COUNTERS = ("torch", "fvcore")


class _Positional(nn.Module):
    """A backbone as fvcore wants it: positional tensors only, everything else fixed."""

    def __init__(self, backbone: Backbone, names: list[str], effort: Effort | None) -> None:
        super().__init__()
        self.backbone, self.names, self.effort = backbone, names, effort

    def forward(self, x: Tensor, c_noise: Tensor, *told: Tensor) -> Tensor:
        given = Given(**dict(zip(self.names, told, strict=True)))
        return self.backbone(x, c_noise, given, self.effort)


def fvcore_fields(backbone: Backbone, setting: Setting, effort: Effort | None) -> Row:
    """fvcore's figure for one call at batch 1: `macs_fvcore` and the operators that it does not count.

    Its "flop" is one multiply-add; norms cost 4 or 5 per element and resampling 1 to 4, on top of our convention.

    Raises:
        UserError: fvcore is not installed.
    """
    if setting.counts_only:  # fvcore traces, which needs a real device
        backbone, setting = _zeros_on_cpu(backbone), replace(setting, device=torch.device("cpu"))
    with undisturbed(backbone, setting.device), torch.inference_mode(False), torch.no_grad():
        x, c_noise, given = example_inputs(backbone.spec, 1, setting)
        told = {name: value for name, value in given._asdict().items() if value is not None}
        analysis = _analysis(_Positional(backbone, list(told), effort), (x, c_noise, *told.values()))
        return {
            "macs_fvcore": int(analysis.total()),
            "uncounted_by_fvcore": dict(analysis.unsupported_ops()),
            "fvcore_by_operator": {operator: int(macs) for operator, macs in analysis.by_operator().items()},
        }


_KINDS = {
    "convolution": "convolution conv",
    "linear": "addmm mm linear addmv mv",
    "batched products": "bmm baddbmm matmul einsum",
    "attention": "attention",
    "norms": "group_norm layer_norm batch_norm instance_norm",
    "resampling": "upsample_nearest2d upsample_bilinear2d grid_sampler adaptive_avg_pool2d",
}


def differences(by_operator: Mapping[str, int], fvcore_by_operator: Mapping[str, int]) -> list[Row]:
    """Our count beside fvcore's, by kind of operator, with the reason where they differ.

    Args:
        by_operator: `Counts.by_operator`.
        fvcore_by_operator: The field of that name of `fvcore_fields`.

    Returns:
        Rows `kind, macs, macs_fvcore, why`.
    """
    rows = []
    for kind in [*_KINDS, "other"]:
        ours, theirs = (_of_kind(counts, kind) for counts in (by_operator, fvcore_by_operator))
        if ours or theirs:
            rows.append({"kind": kind, "macs": ours, "macs_fvcore": theirs, "why": _why(kind, ours, theirs)})
    return rows


def _of_kind(counts: Mapping[str, int], kind: str) -> int:
    known = {name for names in _KINDS.values() for name in names.split()}
    names = {operator: operator.rpartition(".")[2] for operator in counts}
    if kind == "other":
        return sum(counts[operator] for operator, name in names.items() if name not in known)
    return sum(counts[operator] for operator, name in names.items() if name in _KINDS[kind].split())


def _why(kind: str, ours: int, theirs: int) -> str:
    if ours == theirs:
        return ""
    if kind == "attention" and not theirs:
        return "fvcore has no rule for fused attention"
    if kind in ("norms", "resampling"):
        return "fvcore counts operations per element; here they are bytes moved"
    if ours > theirs:
        return "fvcore's trace does not see all calls"
    return "fvcore files them under another kind, or counts what was traced but not run"


def _zeros_on_cpu(backbone: Backbone) -> Backbone:
    copied = copy.deepcopy(backbone).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in itertools.chain(copied.parameters(), copied.buffers()):
            tensor.zero_()
    return copied


def _analysis(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """fvcore's analysis, traced while its warnings are silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from fvcore.nn import FlopCountAnalysis
        except ImportError:
            raise UserError("fvcore is not installed", "pip install fvcore, or use `counter=torch`") from None
        analysis: Any = FlopCountAnalysis(network, inputs)
        analysis = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.total()  # traces, and keeps the result
    return analysis
