"""What every registered backbone must do. A new family is covered by registering a variant tagged "tiny".

A variant that cannot pass a test says so itself: `expected_failures={"test_name": "reason"}` in its registry entry, or
"test_name[value]" for one value of the test's parameter.
"""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from denoisezoo.archs import Backbone, Variant, get_variant, list_denoisers, list_families
from denoisezoo.errors import UserError
from denoisezoo.nn.embeddings import SecondTime
from denoisezoo.nn.given import Given
from denoisezoo.profiling.counting import count

TINY = [name for name in list_denoisers() if "tiny" in get_variant(name).tags]


@pytest.fixture
def variant(request) -> Variant:
    """The entry named by the test's parameter; failures that the entry expects are marked as such.

    It names them as "test_name", or as "test_name[value]" for one value of the test's own parameter.
    """
    entry = get_variant(request.param)
    name = request.function.__name__
    values = [value for key, value in request.node.callspec.params.items() if key != "variant"]
    expected = entry.expected_failures
    reason = expected.get(name) or expected.get(f"{name}[{'-'.join(map(str, values))}]")
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    return entry


each_tiny = pytest.mark.parametrize("variant", TINY, indirect=True)
each_variant = pytest.mark.parametrize("variant", list_denoisers(), indirect=True)


def build(variant: Variant, seed: int = 0) -> Backbone:
    """The network in evaluation mode, its weights moved off zero so that no branch is silent."""
    torch.manual_seed(seed)
    net = variant.build().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def inputs(variant: Variant, batch: int, device: str = "cpu") -> dict[str, Tensor]:
    """A random batch with everything that the network takes."""
    spec = variant.spec
    generator = torch.Generator().manual_seed(batch)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    size = (spec.input_resolution, spec.input_resolution)
    given = {"x": randn(batch, spec.in_channels, *size), "c_noise": randn(batch)}
    if spec.num_classes:
        given["label"] = torch.randint(spec.num_classes, (batch,), generator=generator).to(device)
    if spec.cond_channels:
        given["image"] = randn(batch, spec.cond_channels, *size)
    if spec.token_dim:
        given["tokens"] = randn(batch, spec.tokens, spec.token_dim)
    if spec.augment_dim:
        given["augment"] = randn(batch, spec.augment_dim)
    if spec.second_time:
        given["until"] = randn(batch)
    return given


def call(net: Any, given: dict[str, Tensor | None], effort: float | None = None) -> Tensor:
    """The network's answer to inputs by name."""
    told = {key: value for key, value in given.items() if key not in ("x", "c_noise")}
    return net(given["x"], given["c_noise"], Given(**told), effort)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of a different summation order."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.detach().std().item())


def test_every_family_has_a_tiny_variant():
    assert {get_variant(name).family.name for name in TINY} == set(list_families())


@each_tiny
@pytest.mark.parametrize("batch", [1, 3])
def test_shape(variant, batch):
    net = build(variant)
    spec = variant.spec
    for effort in variant.efforts:
        y = call(net, inputs(variant, batch), effort)
        assert y.shape == (batch, spec.out_channels, spec.resolution, spec.resolution)
        assert y.dtype == torch.float32
        assert y.isfinite().all()


@each_tiny
def test_unknown_effort(variant):
    with pytest.raises(UserError, match=r"effort 0\.123"):
        call(build(variant), inputs(variant, 1), 0.123)


@each_tiny
def test_no_effort_is_the_full_network(variant):
    net, given = build(variant), inputs(variant, 2)
    assert torch.equal(call(net, given), call(net, given, variant.efforts[-1]))


@each_tiny
def test_gradients(variant):
    net = build(variant).train()
    for effort in variant.efforts:
        call(net, inputs(variant, 3), effort).square().mean().backward()
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, f"{name} has no gradient"
            assert p.grad.isfinite().all(), f"{name} has a gradient that is not finite"
            assert p.grad.abs().max() > 0, f"{name} has no influence on the output"


@each_tiny
@pytest.mark.parametrize("what", ["x", "c_noise", "label", "image", "tokens", "augment", "until"])
def test_depends_on(variant, what):
    net, given = build(variant), inputs(variant, 3)
    if what not in given:
        pytest.skip(f"takes no {what}")
    other = (given[what] + 1) % variant.spec.num_classes if what == "label" else given[what] + 0.5
    for effort in variant.efforts:
        change = (call(net, given | {what: other}, effort) - call(net, given, effort)).flatten(1).abs().amax(1)
        assert (change > 1e-4).all(), f"at effort {effort}"


@each_tiny
def test_no_label_is_minus_one(variant):
    given = inputs(variant, 3)
    if "label" not in given:
        pytest.skip("unconditional")
    net, label = build(variant), given.pop("label")
    some = label.clone()
    some[1] = -1
    for effort in variant.efforts:
        nothing = call(net, given, effort)
        assert torch.equal(call(net, given | {"label": torch.full_like(label, -1)}, effort), nothing)
        assert_same(call(net, given | {"label": some}, effort)[1], nothing[1])


@each_tiny
def test_no_augment_is_zero(variant):
    given = inputs(variant, 3)
    if "augment" not in given:
        pytest.skip("takes no augmentation label")
    net, augment = build(variant), given.pop("augment")
    for effort in variant.efforts:
        nothing = call(net, given, effort)
        assert torch.equal(call(net, given | {"augment": torch.zeros_like(augment)}, effort), nothing)


@each_tiny
def test_batch_independence(variant):
    net, given = build(variant), inputs(variant, 3)
    order = torch.tensor([2, 0, 1])
    for effort in variant.efforts:
        together = call(net, given, effort)
        assert_same(call(net, {key: value[order] for key, value in given.items()}, effort), together[order])
        alone = [call(net, {key: value[i : i + 1] for key, value in given.items()}, effort) for i in range(3)]
        assert_same(torch.cat(alone), together)


@each_tiny
def test_forward_changes_no_state(variant):
    net, given = build(variant).train(), inputs(variant, 2)
    before = copy.deepcopy(net.state_dict())
    for effort in variant.efforts:
        call(net, given, effort)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@each_tiny
def test_save_load(variant):
    net, given = build(variant), inputs(variant, 2)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = build(variant, seed=1)
    expected = {effort: call(net, given, effort) for effort in variant.efforts}
    assert not any(torch.equal(call(other, given, effort), y) for effort, y in expected.items())
    other.load_state_dict(torch.load(file, weights_only=True))
    for effort, y in expected.items():
        assert torch.equal(call(other, given, effort), y)
        assert torch.equal(call(copy.deepcopy(net), given, effort), y)


@each_tiny
def test_channels_last(variant):
    net, given = build(variant), inputs(variant, 2)
    expected = [call(net, given, effort) for effort in variant.efforts]
    net = net.to(memory_format=torch.channels_last)
    given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
    for effort, y in zip(variant.efforts, expected, strict=True):
        assert_same(call(net, given, effort), y)


@each_tiny
def test_bfloat16(variant):
    net, given = build(variant), inputs(variant, 3)
    expected = {effort: call(net, given, effort) for effort in variant.efforts}
    half = {key: v.bfloat16() if v.is_floating_point() and key != "c_noise" else v for key, v in given.items()}
    net = net.to(torch.bfloat16)
    for effort, y in expected.items():
        actual = call(net, half, effort)
        assert actual.dtype == torch.bfloat16
        error = (actual.float() - y).abs() / y.std()
        # bfloat16 keeps 8 bits: 0.4 % per operation, and some 20 operations follow each other.
        assert error.quantile(0.5) < 0.02
        assert error.quantile(0.95) < 0.08


@each_tiny
def test_inference_mode(variant):
    net, given = build(variant), inputs(variant, 2)
    copies = {key: value.clone() for key, value in given.items()}
    for effort in variant.efforts:
        expected = call(net, given, effort)
        with torch.inference_mode():
            assert_same(call(net, given, effort), expected)
    assert all(torch.equal(given[key], copies[key]) for key in given), "an input was changed in place"


@each_tiny
def test_compiles_as_one_graph(variant):
    net, given = build(variant), inputs(variant, 2)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for effort in variant.efforts:
        assert_same(call(compiled, given, effort), call(net, given, effort))


@each_tiny
def test_extraction_answers_as_the_network_does(variant):
    """What is taken out for one effort gives the same to 1e-5, takes labels and conditions, and knows no other."""
    net, given = build(variant), inputs(variant, 3)
    for effort in variant.efforts:
        alone = net.extract(effort)
        expected = call(net, given, effort)
        torch.testing.assert_close(call(alone, given), expected, rtol=1e-5, atol=1e-5 * expected.std().item())
        assert alone.efforts == (effort,)
        assert alone.num_params() == net.num_params(effort)


@each_tiny
def test_refuses_wrong_inputs(variant):
    net, given = build(variant), inputs(variant, 2)
    wrong = {"channels": {"x": torch.cat([given["x"], given["x"]], dim=1)}}
    if "image" in given:
        wrong["conditioning image"] = {"image": None}
    if "label" in given:
        wrong["label"] = {"label": given["label"] + variant.spec.num_classes}
    for effort in variant.efforts:
        for told, change in wrong.items():
            with pytest.raises(UserError, match=told):
                call(net, given | change, effort)


@each_tiny
def test_refuses_conditions_of_another_size(variant):
    net, given = build(variant), inputs(variant, 2)
    if "image" not in given:
        return
    for cond in (given["image"][..., :-1], given["image"][..., :-1, :], given["image"].repeat_interleave(2, -1)):
        with pytest.raises(UserError, match="give a condition of the image's size"):
            call(net, given | {"image": cond})


@each_variant
def test_costs(variant):
    """Expected parameters and multiply-adds, at batch 1 with every input given, without allocating anything."""
    with torch.device("meta"):
        net = variant.build().eval()
    given = inputs(variant, 1, device="meta")
    for effort, cost in zip(variant.efforts, variant.costs, strict=True):
        assert net.num_params(effort) == cost.params, f"at effort {effort}"
        counts = count(lambda effort=effort: call(net, given, effort))
        assert counts.uncounted == {}
        assert counts.macs == cost.macs, f"at effort {effort}"


@each_variant
def test_costs_grow_with_effort(variant):
    assert len(set(variant.efforts)) == len(variant.efforts)
    assert [cost.macs for cost in variant.costs] == sorted({cost.macs for cost in variant.costs})
    assert all(0 < cost.params <= variant.costs[-1].params for cost in variant.costs)


@each_tiny
def test_second_time(variant):
    """A network that is told one goes on from weights without, knows no span of zero, and depends on all others."""
    if "test_depends_on[c_noise]" in variant.expected_failures:
        with pytest.raises(UserError, match="blind"):
            variant.build(second_time=True)
        return
    net, given = build(variant), inputs(variant, 3)
    told = variant.build(second_time=True).eval()
    assert told.spec.second_time
    found = told.load_state_dict(net.state_dict(), strict=False)
    assert found.unexpected_keys == []
    own = {name for name, part in told.named_modules() if isinstance(part, SecondTime)}
    assert {key.partition(".project")[0] for key in found.missing_keys} == own
    until = given | {"until": given["c_noise"] - torch.tensor([0.1, 0.4, 2.0])}
    for effort in variant.efforts:
        assert_same(call(told, until, effort), call(net, given, effort))
    with torch.no_grad():
        for key, parameter in told.named_parameters():
            if key in found.missing_keys:
                parameter.add_(0.5 * torch.randn_like(parameter))
    for effort in variant.efforts:
        assert_same(call(told, given | {"until": given["c_noise"]}, effort), call(net, given, effort))
        change = (call(told, until, effort) - call(net, given, effort)).flatten(1).abs().amax(1)
        assert (change > 1e-4).all(), f"at effort {effort}"
        expected = call(told, until, effort)
        alone = call(told.extract(effort), until)
        torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5 * expected.std().item())
