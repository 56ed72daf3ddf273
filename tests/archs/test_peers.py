"""DDPM against a second implementation: diffusers' UNet2DModel with the same weights."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from denoisezoo.archs import create_backbone

pytest.importorskip("diffusers")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def twins(peers, **sizes):
    torch.manual_seed(0)
    ours = create_backbone("ddpm_cifar10", multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.0, **sizes)
    theirs = peers.build_peer(ours.config)
    peers.copy_weights(theirs, ours)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    return ours, theirs


@pytest.fixture
def pair(peers):
    return twins(peers, resolution=16, channels=128)


def test_outputs_and_gradients_equal_those_of_diffusers(pair):
    ours, theirs = pair
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 980])
    y, z = ours(x, t), theirs(x, t).sample
    assert z.std() > 0.05
    torch.testing.assert_close(y, z, rtol=0, atol=1e-5)
    y.square().mean().backward()
    z.square().mean().backward()
    for mine, peer in ((ours.stem, theirs.conv_in), (ours.embedding.first, theirs.time_embedding.linear_1)):
        scale = peer.weight.grad.abs().max().item()
        torch.testing.assert_close(mine.weight.grad, peer.weight.grad, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "sizes", [{"channels": 64}, {"channels": 64, "norm_groups": 16}, {"channels": 96, "head_channels": 32}]
)
def test_groups_and_heads_are_those_of_diffusers(peers, sizes):
    """`norm_num_groups` in layers of less than 128 channels, and `attention_head_dim`, the channels of a head."""
    ours, theirs = twins(peers, resolution=8, **sizes)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 980])
    with torch.no_grad():
        for weight in (*ours.parameters(), *theirs.parameters()):
            weight.mul_(1.5)  # differences of softmax show
        y, z = ours(x, t), theirs(x, t).sample
    assert z.std() > 0.05
    torch.testing.assert_close(y, z, rtol=0, atol=1e-5)


def test_networks_that_differ_are_not_timed(peers, pair):
    ours, theirs = pair
    with torch.no_grad():
        ours.head.bias.add_(1e-3)
        x, t = torch.randn(1, 3, 16, 16), torch.tensor([3])
        with pytest.raises(RuntimeError, match=r"outputs differ by 1\.0e-03"):
            peers.difference(theirs(x, t).sample, ours(x, t))


def test_table_row(peers, tmp_path):
    row = peers.Row("inference, eager", 1, 10.0, 9.0, 12.0, 8.0, 7.0, 9.0, 0.8, 0.7, 0.9, 1.0, 1e-6, 3, 0)
    assert "0.800 (0.70-0.90)  1.00 ok" in peers.line(row)
    peers.write_csv(tmp_path / "rows.csv", [row], peers.machine())
    with (tmp_path / "rows.csv").open() as file:
        (record,) = csv.DictReader(file)
    assert (record["case"], record["ratio"]) == ("inference, eager", "0.8")
    assert record["torch"] == torch.__version__


def test_disturbed_rounds_are_repeated_until_patience_ends(peers, monkeypatch):
    shares = iter([0.5, 0.0, 0.9, 0.01, 0.0])
    monkeypatch.setattr(peers.Load, "others_since", lambda self: next(shares))
    monkeypatch.setattr(peers.time, "sleep", lambda seconds: None)
    bench = peers.Bench.__new__(peers.Bench)
    bench.rounds, bench.patience = 3, 60.0
    pairs, disturbed = bench.measure(lambda: None, lambda: None)
    assert (len(pairs), disturbed) == (3, 2)
    bench.patience = -1.0
    monkeypatch.setattr(peers.Load, "others_since", lambda self: 1.0)
    assert bench.measure(lambda: None, lambda: None)[1] == 0


def test_own_work_is_no_disturbance(peers):
    before = peers.Load.now()
    sum(i * i for i in range(3_000_000))
    now = peers.Load.now()
    assert now.own - before.own > 0.05
    assert now.machine - before.machine >= now.own - before.own - 0.05
