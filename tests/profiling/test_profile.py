import sys

import pytest
import torch
from torch import nn

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import create_denoiser, create_sampler
from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.profiling import machine, profile
from denoisezoo.profiling.counting import Counts
from denoisezoo.profiling.memory import weight_bytes
from denoisezoo.profiling.modules import module_rows
from denoisezoo.profiling.profile import Walk, count_backbone, profile_backbone, time_modules
from denoisezoo.profiling.second_opinion import differences, fvcore_fields
from denoisezoo.profiling.setting import OutOfMemoryError, Setting, example_inputs, explained, parse_dtype, variants_of

from .conftest import FIELD, HEAD, STEM, TOY_PARAMS, toy_macs

CPU = Setting(torch.device("cpu"), runs=2)
META = Setting(torch.device("meta"))

KEYS = {
    *("name", "input", "effort", "batch_size", "device", "device_name", "dtype", "layout", "compiled", "threads"),
    *("torch", "date", "params", "macs", "flops", "macs_attention", "uncounted_ops"),
    *("variant", "macs_diff_pruning", "bytes_products", "bytes_elementwise"),
    *("latency_ms", "images_per_s", "peak_memory_bytes", "cold_start_ms", "roofline", "energy_j_per_image"),
}
WALK_KEYS = {"sampler", "steps", "guidance", "nfe", "inner_nfe", "macs_per_image", "trajectory"}


def counts_of(by_module):
    return Counts(max(by_module.values()), 0, {}, by_module, {}, 0, 0, 0, dict.fromkeys(by_module, 0))


def walk(spec="heun", steps=3):
    return Walk(spec, create_sampler(spec), steps, create_denoiser)


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
        denoiser = create_denoiser(backbone)
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
    tiny = create_backbone("ddpm_tiny")
    x, c_noise, given = example_inputs(tiny.spec, 2, CPU)
    assert (tuple(x.shape), tuple(c_noise.shape)) == ((2, 3, 8, 8), (2,))
    told = {key: tuple(value.shape) for key, value in given._asdict().items() if value is not None}
    assert told == {"label": (2,), "image": (2, 1, 8, 8), "augment": (2, 2)}


def test_types_and_layouts_reach_the_network(toy):
    setting = Setting(torch.device("cpu"), torch.bfloat16, channels_last=True, runs=1)
    setting.prepare(toy)
    assert example_inputs(toy.spec, 2, setting)[0].is_contiguous(memory_format=torch.channels_last)
    (row,) = profile_backbone("toy", toy, setting, efforts=[1.0], walk=walk("euler", 2))
    assert (row["dtype"], row["layout"], row["macs"]) == ("bfloat16", "channels_last", toy_macs(1))


def test_compiled_is_compiled_only_while_measured(toy, monkeypatch):
    compiled = []
    monkeypatch.setattr(toy, "compile", lambda **options: compiled.append(options), raising=False)
    setting = Setting(torch.device("cpu"), compiled=True, runs=1)
    (row,) = profile_backbone("toy", toy, setting, efforts=[1.0])
    assert (row["compiled"], compiled) == (True, [{"dynamic": False, "mode": None}])
    assert toy._compiled_call_impl is None


def test_out_of_memory_is_told_with_the_batch(toy, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(profile, "latency", full)
    with pytest.raises(UserError, match=r"batch of 1 on cpu in float32; use a smaller `batch_size`"):
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
        ("blocks.0", 1, 148, 2 * FIELD),  # the list around it is never called, and has no row
        ("blocks.0.conv", 2, 148, 2 * FIELD),
        ("head", 1, 15, HEAD),
    ]
    assert rows[0].share == 1.0
    assert sum(row.share for row in rows if row.depth == 1) == pytest.approx(1.0)
    assert [row.path for row in module_rows(toy, count_backbone(toy, CPU, 2.0), depth=1)] == [
        "", "stem", "blocks.0", "head"
    ]  # fmt: skip


def test_module_tree_knows_activations_and_time(toy):
    counts = count_backbone(toy, CPU, 2.0)
    by_path = {row.path: row for row in module_rows(toy, counts, seconds=time_modules(toy, CPU, 2.0))}
    image = 4 * 8 * 8
    assert by_path["stem"].activation_bytes == 4 * image
    assert by_path["blocks.0"].activation_bytes == 2 * 2 * 4 * image  # twice: convolution and tanh
    assert by_path["blocks.0.conv"].activation_bytes == 2 * 4 * image
    assert by_path[""].latency_share == 1.0
    parts = [by_path[path].latency_share for path in ("stem", "blocks.0", "head")]
    assert all(0 < share < 1 for share in parts)
    assert sum(parts) < 1  # the sums between the blocks take the rest
    assert by_path["blocks.0.conv"].latency_share < by_path["blocks.0"].latency_share


def test_measured_fields(toy):
    (row,) = profile_backbone("toy", toy, CPU, efforts=[1.0], batch_sizes=[4], training=True)
    seconds = row["latency_ms"]["median"] / 1e3
    assert row["roofline"]["flops_per_s"] == pytest.approx(4 * row["flops"] / seconds)
    assert row["roofline"]["bound"] in ("arithmetic", "memory", "launches")
    assert row["cold_start_ms"]["first_call"] > 0
    assert row["energy_j_per_image"] is None  # no meter on the CPU
    # Weights, gradients and AdamW's two moments, and the activations that the backward pass needs.
    assert row["training"]["peak_memory_bytes"] > 4 * weight_bytes(toy) + 4 * 4 * 4 * 64
    assert row["training"]["latency_ms"]["runs"] == 2
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_a_batch_that_does_not_fit_is_halved(toy, monkeypatch):
    asked = []

    def inputs_of(spec, batch_size, setting):
        asked.append(batch_size)
        if batch_size > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return example_inputs(spec, batch_size, setting)

    monkeypatch.setattr(profile, "example_inputs", inputs_of)
    (row,) = profile_backbone("toy", toy, CPU, efforts=[1.0], batch_sizes=[13])
    assert asked == [1, 13, 6, 3]  # the first one counts
    assert (row["batch_size"], row["batch_size_asked"]) == (3, 13)
    assert row["macs"] == toy_macs(1)


def test_memory_that_is_not_there_is_refused_and_not_fatal(toy):
    class Greedy(type(toy)):
        def forward(self, x, c_noise, *given):
            # 4 PiB in pieces that Linux would grant one by one until it ends the program
            return sum(torch.empty(2**38, dtype=torch.float32)[:1] for _ in range(4096)) + x

    toy.__class__ = Greedy
    with pytest.raises(OutOfMemoryError, match="memory is too small for a batch of 1"):
        list(profile_backbone("toy", toy, CPU, efforts=[1.0]))


def test_a_plan_is_walked_and_must_fit(toy):
    plan = Plan((1.0, 5.0), (0.0,))
    walked = Walk("euler", create_sampler("euler"), 6, create_denoiser, plan)
    (row,) = profile_backbone("toy", toy, CPU, walk=walked)
    assert row["effort"] == 5.0
    assert {call["effort"] for call in row["trajectory"]} == {1.0, 5.0}
    assert row["macs_per_image"] == sum(toy_macs(call["effort"]) for call in row["trajectory"])
    assert row["plan"] == {"efforts": [1.0, 5.0], "edges": [0.0]}
    other = Walk("euler", create_sampler("euler"), 6, create_denoiser, Plan((0.5,)))
    with pytest.raises(UserError, match=r"another network: it uses effort 0\.5, this one offers 1, 2, 5"):
        list(profile_backbone("toy", toy, CPU, walk=other))


def guided(scale):
    return Walk("heun", create_sampler("heun"), 3, create_denoiser, guidance=scale)


def test_guidance_doubles_the_calls():
    net = create_backbone("ddpm_tiny", num_classes=10)
    rows = [next(profile_backbone("net", net, CPU, walk=guided(scale))) for scale in (None, 2.0)]
    assert [row["nfe"] for row in rows] == [5, 10]
    assert rows[1]["macs_per_image"] == 2 * rows[0]["macs_per_image"]
    blind = create_backbone("ddpm_tiny", num_classes=0)
    with pytest.raises(UserError, match="no classes to guide to"):
        list(profile_backbone("net", blind, CPU, walk=guided(2.0)))


def test_calls_of_a_guide_are_priced_as_its_own():
    lesser = create_backbone("ddpm_tiny", channels=4, augment_dim=0)
    for setting in (CPU, Setting(torch.device("meta"))):
        net = setting.moved_copy(create_backbone("ddpm_tiny", augment_dim=0))
        walk = Walk("heun", create_sampler("heun"), 3, create_denoiser, guidance=1.5, guide=create_denoiser(lesser))
        own = next(profile_backbone("net", net, setting))["macs"]
        of_guide = next(profile_backbone("lesser", setting.moved_copy(lesser), setting))["macs"]
        row = next(profile_backbone("net", net, setting, walk=walk))
        assert [call["macs"] for call in row["trajectory"]] == 5 * [own, of_guide]
        assert row["macs_per_image"] == 5 * (own + of_guide)
        assert all((call["latency_ms"] is None) == setting.counts_only for call in row["trajectory"])


def test_variants_stand_on_the_setting():
    names = [setting.variant for setting in variants_of(CPU, ["all"])]
    assert names == ["eager", "channels_last", "bf16", "compiled", "compiled_bf16"]
    bf16 = variants_of(CPU, ["bf16"])[0]
    assert (bf16.dtype, bf16.channels_last, bf16.compiled, bf16.runs) == (torch.bfloat16, True, False, CPU.runs)
    with pytest.raises(UserError, match="needs a CUDA device"):
        variants_of(CPU, ["cuda_graphs"])
    with pytest.raises(UserError, match="unknown variant 'eagre'; did you mean eager"):
        variants_of(CPU, ["eagre"])


def test_module_tree_counts_shared_weights_once():
    linear = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": linear, "b": nn.Sequential(linear)})
    rows = module_rows(net, counts_of({"a": 32}))
    assert [(row.path, row.params, row.macs) for row in rows] == [("", 20, 32), ("a", 20, 32)]


@pytest.mark.parametrize("setting", [CPU, META], ids=["cpu", "meta"])
def test_fvcore_agrees_where_both_count(toy, setting):
    toy.to(setting.device).train()
    fields = fvcore_fields(toy, setting, 5.0)
    assert fields["macs_fvcore"] == toy_macs(5)
    assert fields["uncounted_by_fvcore"]["aten::tanh"] == 5
    assert toy.training
    assert next(toy.parameters()).device == setting.device


def test_the_difference_to_fvcore_is_explained():
    net = create_backbone("ddpm_tiny")
    ours = count_backbone(net, CPU)
    theirs = fvcore_fields(net, CPU, None)
    rows = {row["kind"]: row for row in differences(ours.by_operator, theirs["fvcore_by_operator"])}
    assert sum(row["macs"] for row in rows.values()) == ours.macs
    assert sum(row["macs_fvcore"] for row in rows.values()) == theirs["macs_fvcore"]
    for kind in ("convolution", "linear"):
        assert rows[kind]["macs"] == rows[kind]["macs_fvcore"] > 0
        assert rows[kind]["why"] == ""
    assert (rows["attention"]["macs"], rows["attention"]["macs_fvcore"]) == (ours.macs_attention, 0)
    assert "no rule for fused attention" in rows["attention"]["why"]
    assert rows["norms"]["macs"] == 0 < rows["norms"]["macs_fvcore"]


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
