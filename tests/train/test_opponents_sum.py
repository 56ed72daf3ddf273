"""The adversary's gradient of several processes, added up while the denoiser computes; and what DDP sends beside it."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from denoisezoo.train import adversary
from denoisezoo.train.adversary import Opponent
from denoisezoo.train.optimizer import OptimizerConfig
from denoisezoo.train.sharding import keep_buffers

TWO = SimpleNamespace(world_size=2, global_step=0, accumulate_grad_batches=1, precision_plugin=None)


@pytest.fixture
def opponent(monkeypatch):
    """One whose step is its gradient, beside a process whose gradients are 3 everywhere."""
    sent = []

    def all_reduce(flat, async_op):
        assert async_op
        sent.append(flat.clone())
        return SimpleNamespace(wait=lambda: flat.add_(3.0))

    monkeypatch.setattr(adversary.dist, "all_reduce", all_reduce)
    made = Opponent(torch.nn.Linear(2, 1), OptimizerConfig(lr=1.0))
    made.start(TWO)
    made.optimizer = torch.optim.SGD(made.network.parameters(), lr=1.0)
    made.sent = sent
    return made


def moved(opponent):
    """By how much a step changes the weights."""
    before = [p.detach().clone() for p in opponent.network.parameters()]
    opponent.step(TWO, 10)
    return [float((a - b.detach()).mean()) for a, b in zip(before, opponent.network.parameters(), strict=True)]


def test_gradients_are_averaged(opponent):
    opponent.trains(True)
    opponent.backward(TWO, opponent.network(torch.ones(1, 2)).sum())
    opponent.send(TWO)
    opponent.send(TWO)  # once in a step
    assert [one.tolist() for one in opponent.sent] == [[1.0, 1.0, 1.0]]
    assert moved(opponent) == pytest.approx([2.0, 2.0])
    assert moved(opponent) == [0.0, 0.0]  # nothing of it is left


def test_a_process_whose_batch_failed_takes_part_and_changes_nothing(opponent):
    opponent.send(TWO)
    opponent.forget()
    assert opponent.sent[0].tolist() == [0.0, 0.0, 0.0]
    assert moved(opponent) == [0.0, 0.0]
    opponent.send(TWO)
    assert len(opponent.sent) == 2


def test_one_process_sends_nothing(opponent):
    opponent.send(SimpleNamespace(world_size=1))
    assert not opponent.sent


@pytest.mark.parametrize(
    ("network", "sends"),
    [
        (torch.nn.Linear(1, 1), False),
        (torch.nn.BatchNorm2d(1), True),
        (torch.nn.BatchNorm2d(1, track_running_stats=False), False),
        (torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(2, 2)), True),
    ],
)
def test_buffers_are_sent_where_passes_change_them(network, sends):
    strategy = DDPStrategy()
    keep_buffers(SimpleNamespace(strategy=strategy), network)
    assert strategy._ddp_kwargs.get("broadcast_buffers", True) is sends


def test_what_was_asked_of_ddp_stays():
    strategy = DDPStrategy(broadcast_buffers=True)
    keep_buffers(SimpleNamespace(strategy=strategy), torch.nn.Linear(1, 1))
    assert strategy._ddp_kwargs["broadcast_buffers"] is True
