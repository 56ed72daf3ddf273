import sys

import pytest
import torch
from torch import nn

from denoisezoo.archs import create_denoiser
from denoisezoo.diffusion import create_sampler, default_denoiser
from denoisezoo.errors import UserError
from denoisezoo.profiling import machine, profile
from denoisezoo.profiling.counting import Counts
from denoisezoo.profiling.memory import weight_bytes
from denoisezoo.profiling.modules import module_rows
from denoisezoo.profiling.profile import (
    Setting,
    Walk,
    count_backbone,
    example_inputs,
    explained,
    parse_dtype,
    profile_backbone,
)
from denoisezoo.profiling.second_opinion import fvcore_fields

from .conftest import FIELD, HEAD, STEM, TOY_PARAMS, toy_macs

CPU = Setting(torch.device("cpu"), runs=2)
META = Setting(torch.device("meta"))

KEYS = {
    *("name", "input", "effort", "batch_size", "device", "device_name", "dtype", "layout", "compiled", "threads"),
    *("torch", "date", "params", "macs", "flops", "macs_attention", "uncounted_ops"),
    *("latency_ms", "images_per_s", "peak_memory_bytes"),
}
WALK_KEYS = {"sampler", "steps", "nfe", "inner_nfe", "macs_per_image", "trajectory"}


def walk(spec="heun", steps=3):
    return Walk(spec, create_sampler(spec), steps, default_denoiser)


def test_one_row_for_each_effort_and_batch_size(toy):
    rows = list(profile_backbone("toy", toy, CPU, batch_sizes=[1, 3]))
    assert [(row["effort"], row["batch_size"]) for row in rows] == [
        (effort, batch) for effort in (1.0, 2.0, 5.0) for batch in (1, 3)
    ]
    for row in rows:
        assert set(row) == KEYS
        assert row["macs"] == toy_macs(row["effort"])  # per image, whatever the batch
        assert row["flops"] == 2 * row["macs"]
        assert (row["params"], row["macs_attention"], row["uncounted_ops"]) == (TOY_PARAMS, 0, {})
        assert row["latency_ms"]["runs"] == 2
        assert 0 < row["latency_ms"]["p10"] <= row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["latency_ms"]["median"])
        # Weights, and at least the widest activation with the input of its layer.
        assert row["peak_memory_bytes"] >= weight_bytes(toy) + row["batch_size"] * 2 * 4 * 4 * 64
    assert (rows[0]["name"], rows[0]["input"], rows[0]["device"]) == ("toy", "3x8x8", "cpu")
    assert (rows[0]["dtype"], rows[0]["compiled"], rows[0]["layout"]) == ("float32", False, "contiguous")


def test_counts_only_measures_nothing(toy):
    (row,) = profile_backbone("toy", toy.to("meta"), META, efforts=[2.0], walk=walk())
    assert set(row) == KEYS | WALK_KEYS
    assert (row["macs"], row["params"]) == (toy_macs(2), TOY_PARAMS)
    assert [row[key] for key in ("device_name", "latency_ms", "images_per_s", "peak_memory_bytes")] == [None] * 4
    assert (row["nfe"], row["inner_nfe"], row["macs_per_image"]) == (5, 10, 5 * toy_macs(2))


def test_a_sampler_adds_the_trajectory(toy):
    (row,) = profile_backbone("toy", toy, CPU, efforts=[1.0], batch_sizes=[2], walk=walk("euler", 4))
    assert (row["sampler"], row["steps"], row["nfe"], row["inner_nfe"]) == ("euler", 4, 4, 4)
    assert row["macs_per_image"] == 4 * toy_macs(1) == sum(call["macs"] for call in row["trajectory"])


def test_heavy_operators_around_the_network_make_the_price_a_lower_bound(toy):
    def spectral(backbone):
        denoiser = default_denoiser(backbone)
        decode = denoiser.preconditioning.prediction
        denoiser.preconditioning.prediction = lambda process, u, t, F_x: decode(
            process, u, t, torch.fft.ifft2(torch.fft.fft2(F_x)).real
        )
        return denoiser

    (row,) = profile_backbone("toy", toy, CPU, efforts=[1.0], walk=Walk("euler", create_sampler("euler"), 3, spectral))
    assert row["uncounted_ops"] == {"aten._fft_c2c": 2 * 3}


def test_nothing_about_the_network_changes(toy):
    toy.train()
    toy.head.eval()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    list(profile_backbone("toy", toy, CPU, walk=walk("ddim:eta=1", 2)))
    assert toy.training
    assert not toy.head.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in toy.modules())
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in toy.parameters())


def test_an_effort_that_the_network_lacks(toy):
    with pytest.raises(UserError, match=r"effort 3\.0 is not offered"):
        list(profile_backbone("toy", toy, CPU, efforts=[3.0]))


def test_every_optional_input_is_given():
    tiny = create_denoiser("ddpm_tiny")
    inputs = example_inputs(tiny.spec, 2, CPU)
    assert {key: tuple(value.shape) for key, value in inputs.items()} == {
        "x": (2, 3, 8, 8),
        "c_noise": (2,),
        "label": (2,),
        "cond": (2, 1, 8, 8),
        "augment": (2, 2),
    }


def test_types_and_layouts_reach_the_network(toy):
    setting = Setting(torch.device("cpu"), torch.bfloat16, channels_last=True, runs=1)
    setting.prepare(toy)
    assert example_inputs(toy.spec, 2, setting)["x"].is_contiguous(memory_format=torch.channels_last)
    (row,) = profile_backbone("toy", toy, setting, efforts=[1.0], walk=walk("euler", 2))
    assert (row["dtype"], row["layout"], row["macs"]) == ("bfloat16", "channels_last", toy_macs(1))


def test_compiled_is_compiled_only_while_measured(toy, monkeypatch):
    compiled = []
    monkeypatch.setattr(toy, "compile", lambda **options: compiled.append(options), raising=False)
    setting = Setting(torch.device("cpu"), compiled=True, runs=1)
    (row,) = profile_backbone("toy", toy, setting, efforts=[1.0])
    assert (row["compiled"], compiled) == (True, [{"dynamic": False}])
    assert toy._compiled_call_impl is None


def test_out_of_memory_is_told_with_the_batch(toy, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(profile, "latency", full)
    with pytest.raises(UserError, match=r"batch of 4 on cpu in float32; use a smaller --batch-size"):
        list(profile_backbone("toy", toy, CPU, efforts=[1.0], batch_sizes=[4]))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "memory is too small"),
        (NotImplementedError("\"slow_conv2d\" not implemented for 'Half'"), "a layer does not run on cpu"),
    ],
)
def test_failures_of_the_machine_are_told(error, told):
    def fail():
        with explained(CPU, 1):
            raise error

    with pytest.raises(UserError, match=told):
        fail()


def test_other_failures_are_left_alone():
    def fail():
        with explained(CPU, 1):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()


def test_module_tree(toy):
    rows = module_rows(toy, count_backbone(toy, CPU, 2.0))
    assert [(row.path, row.depth, row.params, row.macs) for row in rows] == [
        ("", 0, TOY_PARAMS, toy_macs(2)),
        ("stem", 1, 16, STEM),
        ("blocks", 1, 148, 2 * FIELD),  # a list is never called; it costs what its parts do
        ("blocks.0", 2, 148, 2 * FIELD),
        ("blocks.0.conv", 3, 148, 2 * FIELD),
        ("head", 1, 15, HEAD),
    ]
    assert rows[0].share == 1.0
    assert sum(row.share for row in rows if row.depth == 1) == pytest.approx(1.0)
    assert [row.path for row in module_rows(toy, count_backbone(toy, CPU, 2.0), depth=1)] == [
        "", "stem", "blocks", "head"
    ]  # fmt: skip


def test_module_tree_counts_shared_weights_once():
    linear = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": linear, "b": nn.Sequential(linear)})
    rows = module_rows(net, Counts(32, 0, {}, {"a": 32}))
    assert [(row.path, row.params, row.macs) for row in rows] == [("", 20, 32), ("a", 20, 32), ("b", 20, 0)]


@pytest.mark.parametrize("setting", [CPU, META], ids=["cpu", "meta"])
def test_fvcore_agrees_where_both_count(toy, setting):
    toy.to(setting.device).train()
    fields = fvcore_fields(toy, setting, 5.0)
    assert fields["macs_fvcore"] == toy_macs(5)
    assert fields["uncounted_by_fvcore"]["aten::tanh"] == 5
    assert toy.training
    assert next(toy.parameters()).device == setting.device


def test_fvcore_absent(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    with pytest.raises(UserError, match="fvcore is not installed"):
        fvcore_fields(toy, CPU, None)


def test_devices_that_are_not_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.parse_device("auto") == torch.device("cpu")
    for text, message in [("cuda", "no device cuda"), ("gpu0", "'gpu0' is no device"), ("meta", "no device meta")]:
        with pytest.raises(UserError, match=message):
            machine.parse_device(text)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.parse_device("auto") == torch.device("cuda")
    with pytest.raises(UserError, match="no device cuda:1"):
        machine.parse_device("cuda:1")


def test_dtypes_by_name():
    assert parse_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(UserError, match="did you mean float32"):
        parse_dtype("flaot32")


def test_the_machine_is_known():
    assert machine.cpu_name()
    total, free = machine.memory_bytes()
    assert 0 < free <= total
    assert machine.device_name(torch.device("meta")) is None
