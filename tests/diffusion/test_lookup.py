"""Constants of processes, on every device and in every dtype once."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from denoisezoo.diffusion import PROCESSES
from denoisezoo.diffusion.processes.lookup import Table

VALUES = [[1.0, 1 / 3], [0.1, 2.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_table_is_copied_once_and_rounded_once(dtype):
    table, x = Table(VALUES), torch.zeros(3, dtype=dtype)
    found = table.like(x)
    assert found.dtype is dtype
    assert table.like(x[:1]) is found
    assert torch.equal(found, torch.tensor(VALUES, dtype=torch.float64).to(dtype))
    assert torch.equal(table.like(x, torch.float64), table.values)


def test_a_table_first_asked_for_under_inference_serves_training():
    table, weight = Table(VALUES), torch.ones(2, 2, requires_grad=True)
    with torch.inference_mode():
        table.like(weight)
    (weight * table.like(weight)).sum().backward()
    assert torch.equal(weight.grad, table.like(weight))


def test_a_table_keeps_no_tensor_without_numbers():
    table = Table(VALUES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert table.like(torch.zeros(1)).shape == (2, 2)
    assert table.like(torch.zeros(1)).sum().item() == pytest.approx(3.4333333)


@pytest.mark.parametrize("name", ["multiscale", "blurring", "diagonal", "cld", "vp_discrete", "downsampling"])
def test_a_used_process_is_copied_whole(name):
    process = PROCESSES[name].for_images(16)
    t = torch.tensor([process.t_max], dtype=torch.float32)
    expected = process.log_snr(t)
    assert torch.equal(copy.deepcopy(process).log_snr(t), expected)


@pytest.mark.parametrize("name", ["multiscale", "diagonal"])
def test_tables_are_not_copied_while_something_is_differentiated(name):
    """A copy that is made inside of `torch.func` belongs to that call."""
    process = PROCESSES[name].for_images(16)
    t = torch.tensor([0.3], dtype=torch.float32)
    process.derivatives(t)
    tables = [value for value in vars(process).values() if isinstance(value, Table)]
    copies = [kept for table in tables for kept in table._copies.values()]
    assert copies
    assert not any("GradTracking" in repr(kept) for kept in copies)


def test_compiled_processes_answer_as_eager_ones():
    process = PROCESSES["multiscale"].for_images(16)
    compiled = torch.compile(process.alpha_sigma, fullgraph=True, backend="eager")
    for t in torch.tensor([[0.2], [0.7]], dtype=torch.float32):
        torch.testing.assert_close(compiled(t), process.alpha_sigma(t), rtol=0, atol=0)
