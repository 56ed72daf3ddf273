"""What a training step costs: forward, backward and optimizer, in time and memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Effort
from denoisezoo.profiling.latency import latency
from denoisezoo.profiling.memory import peak_bytes, weight_bytes
from denoisezoo.profiling.setting import Setting, example_inputs, renew


def training_step(backbone: nn.Module, setting: Setting, batch_size: int, effort: Effort) -> dict[str, Any]:
    """Time a step of AdamW on the mean square of the output.

    Args:
        backbone: A backbone; a copy of it is trained, in train mode.
        setting: How to run it; compiled if it says so. Weights stay in its type.
        batch_size: Images per step.
        effort: How much of the network.

    Returns:
        The JSON field `training`: `latency_ms`, `images_per_s`, and `peak_memory_bytes` with weights, gradients and the
        optimizer's state; null where it cannot be measured.
    """
    with torch.inference_mode(False), torch.enable_grad():
        net: Any = copy.deepcopy(backbone).train().requires_grad_()
        step, refresh = _step(net, setting, batch_size, effort)
        with setting.compiling(net):
            timing = latency(step, setting.device, runs=setting.runs, refresh=refresh)
        net.zero_grad(set_to_none=True)
        peak = peak_bytes(step, setting.device)
    state = 2 * weight_bytes(net)  # AdamW's two moments, there since the first step
    return {
        "latency_ms": timing.to_dict(),
        "images_per_s": batch_size / timing.median * 1e3,
        "peak_memory_bytes": None if peak is None else peak + weight_bytes(net) + state,
    }


def _step(net: Any, setting: Setting, batch_size: int, effort: Effort) -> tuple[Any, Any]:
    inputs = example_inputs(net.spec, batch_size, setting)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=setting.device.type in ("cpu", "cuda"))

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = net(*inputs, effort).float().square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, lambda: renew(inputs)
