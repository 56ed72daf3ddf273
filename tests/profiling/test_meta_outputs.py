"""What is remembered of operators on the meta device is what torch says anew."""

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.profiling import meta_outputs
from denoisezoo.profiling.counting import count

aten = torch.ops.aten


def meta(*shape, **kwargs):
    return torch.empty(*shape, device="meta", **kwargs)


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


class Own(torch.Tensor):
    """Of somebody else; what operators make of it is theirs to say."""


def look(out):
    """Shapes, strides and types of one output or several."""
    if out is None or isinstance(out, torch.Tensor):
        return out if out is None else (out.shape, out.stride(), out.dtype, out.device.type)
    return type(out), [look(part) for part in out]


X, Y, W = meta(2, 8, 4, 4), last(meta(2, 8, 4, 4)), meta(8)
STATS = (meta(2, 4), meta(2, 4))
CALLS = {
    "same": (aten.mul.Tensor, X, X),
    "layout": (aten.silu.default, Y),
    "broadcast": (aten.add.Tensor, X, meta(8, 1, 1)),
    "type": (aten.mul.Tensor, meta(3, dtype=torch.bfloat16), meta(3)),
    "integer": (aten.add.Scalar, meta(3, dtype=torch.int64), 1),
    "float": (aten.add.Scalar, meta(3, dtype=torch.int64), 1.0),
    "boolean": (aten.add.Scalar, meta(3, dtype=torch.bool), True),
    "several": (aten.native_group_norm.default, X, W, W, 2, 8, 16, 4, 1e-5),
    "none": (aten.native_group_norm_backward.default, X, X, *STATS, W, 2, 8, 16, 4, [True, False, True]),
    "list": (aten.cat.default, [X, Y], 1),
    "convolution": (aten.convolution.default, Y, meta(3, 8, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_answer_is_the_first(name, monkeypatch):
    monkeypatch.setattr(meta_outputs, "_OUTPUTS", {})
    func, *args = CALLS[name]
    expected = look(func(*args))
    assert look(meta_outputs.run(func, args, {})) == expected
    assert len(meta_outputs._OUTPUTS) == 1
    assert look(meta_outputs.run(func, args, {})) == expected


def test_what_is_remembered_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(meta_outputs, "_OUTPUTS", {})
    meta_outputs.run(aten.silu.default, (X,), {})
    (key,) = meta_outputs._OUTPUTS
    meta_outputs._OUTPUTS[key] = (torch.Size([7]), (1,), torch.float32)
    assert meta_outputs.run(aten.silu.default, (X,), {}).shape == (7,)
    assert meta_outputs.run(aten.silu.default, (Y,), {}).shape == Y.shape


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.view.default, (X, [2, 128])),
        (aten.mul_.Tensor, (meta(3), meta(3))),
        (aten.add.Tensor, (torch.zeros(3), torch.zeros(3))),
        (aten.silu.default, (meta(3).as_subclass(Own),)),
    ],
    ids=["view", "in place", "with values", "of another class"],
)
def test_what_has_values_or_shares_memory_is_never_remembered(func, args, monkeypatch):
    monkeypatch.setattr(meta_outputs, "_OUTPUTS", {})
    for _ in range(2):
        with_values = [arg for arg in args if isinstance(arg, torch.Tensor) and not arg.is_meta]
        out = meta_outputs.run(func, args, {})
        assert with_values == [] or torch.equal(out, torch.zeros(3))
    assert not meta_outputs._OUTPUTS


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(meta_outputs, "_OUTPUTS", {})
    monkeypatch.setattr(meta_outputs, "MOST", 3)
    for n in range(1, 9):
        meta_outputs.run(aten.silu.default, (meta(n),), {})
    assert len(meta_outputs._OUTPUTS) <= 3


def test_a_second_count_finds_the_same():
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8)).to("meta")

    def counts():
        layer.zero_grad()  # sets the gradients to None, to which the next ones would be added
        return count(lambda: F.silu(layer(meta(2, 3, 8, 8))).sum().backward())

    first, second = counts(), counts()
    assert first == second
    assert first.macs == 2 * 36 * 8 * 27 * 2  # forward, and the gradient of the weights; the image needs none
