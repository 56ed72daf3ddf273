"""What a recipe leaves open is chosen for a GPU, and on a CPU stays as it was."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from denoisezoo.train import device_choices
from denoisezoo.train.device_choices import COMPILED_FROM, channels_last_pays, choose_for_device, fast_arithmetic
from denoisezoo.train.module import DiffusionModule
from denoisezoo.train.recipe import parse_recipe
from denoisezoo.train.resumable import first_difference, kept
from denoisezoo.train.sharding import FSDP2


def trainer_on(device, max_steps=-1):
    return SimpleNamespace(strategy=SingleDeviceStrategy(torch.device(device)), max_steps=max_steps)


@pytest.fixture
def compiled(monkeypatch):
    """The networks that were compiled; they run as they are."""
    found = []

    def compile_network(network):
        network._compiled_call_impl = network._call_impl
        found.append(network)

    monkeypatch.setattr(device_choices, "compile_network", compile_network)
    return found


def module_with(arguments, **options):
    words = [word for key, value in options.items() for word in (f"--model.{key}", str(value).lower())]
    return parse_recipe(arguments(*words)).model


def in_channels_last(module):
    weights = [p for p in module.denoiser.backbone.parameters() if p.dim() == 4 and p.shape[-1] > 1 and p.shape[1] > 1]
    assert weights
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_a_cpu_trains_as_before(arguments, compiled):
    module = module_with(arguments)
    assert isinstance(module, DiffusionModule)
    choose_for_device(trainer_on("cpu"), module)
    assert not compiled
    assert in_channels_last(module)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    with fast_arithmetic(trainer_on("cpu")):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_a_gpu_compiles_and_keeps_what_was_said(arguments, compiled, monkeypatch):
    module = module_with(arguments)
    choose_for_device(trainer_on("cuda"), module)
    assert compiled == [module.denoiser.backbone]
    assert in_channels_last(module)
    monkeypatch.setattr(device_choices, "channels_last_pays", lambda compiled: compiled)
    eager = module_with(arguments, compile=False)
    choose_for_device(trainer_on("cuda"), eager)
    assert len(compiled) == 1
    assert not in_channels_last(eager)
    asked = module_with(arguments, compile=False, channels_last=True)
    choose_for_device(trainer_on("cuda"), asked)
    assert in_channels_last(asked)


@pytest.mark.parametrize(("steps", "compiles"), [(COMPILED_FROM - 1, False), (COMPILED_FROM, True), (-1, True)])
def test_a_short_run_is_not_worth_a_compilation(steps, compiles, arguments, compiled):
    choose_for_device(trainer_on("cuda", steps), module_with(arguments))
    assert len(compiled) == compiles


def test_a_divided_network_is_not_compiled(arguments, compiled):
    divided = type("OnCuda", (FSDP2,), {"root_device": torch.device("cuda")})()
    choose_for_device(SimpleNamespace(strategy=divided, max_steps=-1), module_with(arguments))
    assert not compiled


def test_layouts_by_version():
    assert [channels_last_pays(False, version) for version in ("2.9.1", "2.11.0+cu130", "2.15.0", "3.0.0")] == [
        *(False, False, True, True)
    ]
    assert channels_last_pays(True, "2.11.0")


def test_arithmetic_of_a_gpu_is_put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    with fast_arithmetic(trainer_on("cuda")):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == ("high", True)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_runs_of_earlier_versions_go_on():
    """Their recipes say `compile: false` and `channels_last: true`, which was the default."""
    earlier, now = (
        kept({"model": {"denoiser": "x", "compile": a, "channels_last": b}, "data": {}})
        for a, b in ((False, True), (None, None))
    )
    assert first_difference(earlier, now) is None
    other = kept({"model": {"denoiser": "x", "compile": True, "channels_last": None}, "data": {}})
    assert first_difference(now, other) == "model.compile"
