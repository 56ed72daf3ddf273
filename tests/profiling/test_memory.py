import os

import pytest
import torch
from torch import nn

from denoisezoo.profiling.memory import peak_bytes, weight_bytes

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]
MIB = 2**20
SLACK = 4096
"""Scalars and the allocator's rounding."""


@pytest.mark.parametrize("device", DEVICES)
def test_peak_by_hand(device):
    x = torch.zeros(MIB, device=device)  # 4 MiB, there before the call

    def call():
        y = x + 1  # 4 MiB
        z = y * 2  # 8 MiB
        del y  # 4 MiB
        return z.sum()

    assert 8 * MIB <= peak_bytes(call, torch.device(device)) <= 8 * MIB + SLACK


@pytest.mark.parametrize("device", DEVICES)
def test_work_in_place_needs_nothing(device):
    x = torch.zeros(MIB, device=device)
    assert peak_bytes(lambda: x.mul_(2), torch.device(device)) <= SLACK


def test_a_device_without_an_allocator_to_ask():
    assert peak_bytes(lambda: None, torch.device("meta")) is None


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    peak_bytes(lambda: None, torch.device("cpu"))
    assert "KINETO_LOG_LEVEL" not in os.environ
    monkeypatch.setenv("KINETO_LOG_LEVEL", "3")
    peak_bytes(lambda: None, torch.device("cpu"))
    assert os.environ["KINETO_LOG_LEVEL"] == "3"


def test_shared_weights_count_once():
    linear = nn.Linear(4, 4)
    net = nn.Sequential(linear, linear, nn.BatchNorm1d(4))
    buffers = 4 * 4 + 4 * 4 + 8  # running mean and variance, number of batches as int64
    assert weight_bytes(net) == 4 * (16 + 4 + 4 + 4) + buffers
