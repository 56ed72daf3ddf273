"""Compiled networks have a program for each effort, size and mode; what has none is said."""

import pytest
import torch
import torch._dynamo.config

from denoisezoo.archs import Backbone, BackboneConfig, allow_programs, compile_network
from denoisezoo.archs.compiling import LIMITS
from denoisezoo.nn.given import NOTHING
from denoisezoo.plans.compiled import _just_in_time


class Toy(Backbone):
    """One convolution, of as many channels as the effort says; quick to trace."""

    def __init__(self, efforts=(1.0,), resolutions=(8,)):
        super().__init__(BackboneConfig(resolution=8))
        self.efforts, self.sizes = efforts, resolutions
        self.conv = torch.nn.Conv2d(3, 3, 1)

    @property
    def resolutions(self):
        return self.sizes

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        h = torch.nn.functional.dropout(x[:, : round(4 * self.check_effort(effort))], 0.5, self.training)
        return self.conv(torch.nn.functional.pad(h, (0, 0, 0, 0, 0, 3 - h.shape[1])))


@pytest.fixture
def programs(monkeypatch):
    """The graphs that are handed to the compiler, which here runs them as they are, under torch's own limits."""
    made = []
    real = torch.compile

    def backend(graph, examples):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *args, **options: real(*args, **options | {"backend": backend}))
    torch.compiler.reset()
    with torch._dynamo.config.patch(**LIMITS):
        yield made
    torch.compiler.reset()


def call(network, size=8, *effort):
    return network(torch.randn(2, 3, size, size), torch.rand(2), NOTHING, *effort)


def test_every_effort_size_and_mode_is_compiled(programs, capsys):
    """Three efforts at two sizes, in training, validation and sampling: 18 programs, where torch would end after 8."""
    efforts = (0.25, 0.5, 0.75)
    net = Toy(efforts, (8, 4))
    compile_network(net, dynamic=False)
    assert torch._dynamo.config.recompile_limit == 6 * LIMITS["recompile_limit"]
    calls = [(mode, size, effort) for mode in ("train", "validate", "sample") for size in (8, 4) for effort in efforts]
    for mode, size, effort in calls:
        net.train(mode == "train")
        with torch.set_grad_enabled(mode == "train"), torch.inference_mode(mode == "sample"):
            call(net, size, effort)
    assert len(programs) == len(calls) == 18
    assert capsys.readouterr().err == ""


def test_the_limit_is_told_in_one_line_when_it_is_met(programs, capfd):
    net = Toy((0.75,)).eval()
    compile_network(net, dynamic=False)
    for size in range(2, 22, 2):
        with torch.no_grad():
            call(net, size)
    err = capfd.readouterr().err
    assert len(programs) == LIMITS["recompile_limit"]
    assert err.startswith("warning: torch.compile stops at 8 programs for one network")
    assert err.count("\n") == 1


def test_each_network_of_a_plan_is_compiled_for_each_shape(programs):
    """Their wrappers share the code of one function, and torch would compile the first eight alone."""
    nets = [Toy((0.75,)).eval() for _ in range(2)]
    for net in nets:
        for size in range(2, 14, 2):
            with torch.no_grad():
                call(_just_in_time(net), size)
    assert len(programs) == 12


def test_limits_are_never_lowered(programs):
    allow_programs(5)
    allow_programs(1)
    assert torch._dynamo.config.recompile_limit == 40
