"""A second counter, fvcore's, beside our own. It traces the network, counts norms too, and misses fused attention."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.errors import UserError
from denoisezoo.profiling.profile import Row, Setting, example_inputs
from denoisezoo.profiling.state import undisturbed

COUNTERS = ("torch", "fvcore")


class _Positional(nn.Module):
    """A backbone as fvcore wants it: positional tensors only, everything else fixed."""

    def __init__(self, backbone: Backbone, names: list[str], effort: Effort | None) -> None:
        super().__init__()
        self.backbone, self.names, self.effort = backbone, names, effort

    def forward(self, *tensors: Tensor) -> Tensor:
        out: Tensor = self.backbone(**dict(zip(self.names, tensors, strict=True)), effort=self.effort)
        return out


def fvcore_fields(backbone: Backbone, setting: Setting, effort: Effort | None) -> Row:
    """fvcore's figure for one call at batch 1: `macs_fvcore` and the operators that it does not count.

    Its "flop" is one multiply-add; norms cost 4 or 5 per element and resampling 1 to 4, on top of our convention.

    Raises:
        UserError: fvcore is not installed.
    """
    if setting.counts_only:  # fvcore traces, which needs a real device
        backbone, setting = _zeros_on_cpu(backbone), replace(setting, device=torch.device("cpu"))
    with undisturbed(backbone, setting.device), torch.inference_mode(False), torch.no_grad():
        inputs = example_inputs(backbone.spec, 1, setting)
        analysis = _analysis(_Positional(backbone, list(inputs), effort), tuple(inputs.values()))
        return {"macs_fvcore": int(analysis.total()), "uncounted_by_fvcore": dict(analysis.unsupported_ops())}


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
            raise UserError("fvcore is not installed", "pip install fvcore, or use --counter torch") from None
        analysis: Any = FlopCountAnalysis(network, inputs)
        analysis = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.total()  # traces, and keeps the result
    return analysis
