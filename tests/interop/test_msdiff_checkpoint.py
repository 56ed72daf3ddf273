"""Checkpoints of MSDiff: the networks of all sizes return what its own code does, and it is the score."""

import sys
from types import ModuleType

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Affine, Haar
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, filled, image, layout

# GBATZOLIS/MSDiff c7bef56, models/guided_diff_unet.py, UNetModel_multi_speed_haar with 32 channels, channel_mult (1, 2)
# and (1), 1 block, attention at rate 1, 16 channels per head: what its U-Nets return for the images of `image` at 8 and
# 4 pixels and labels 3 and 870.
THEIRS = {
    "d1": [-0.027392, -0.050859, -1.19369, -0.447454, -0.635129, -0.383606, -0.753499, -0.058575],
    "a1": [-0.209967, -0.159981, -0.958388, -0.502579, 0.796992, -0.528687, 0.255643, 0.036436],
}


class ConfigDict:
    """What ml_collections puts into a checkpoint."""

    def __init__(self, **fields):
        self._fields, self._locked = fields, True


def write(path, monkeypatch, rooms=("d1", "a1"), change=lambda weights: None, average=True):
    """Write a checkpoint; averaged weights lie in the state of a callback."""
    for name in ("ml_collections", "ml_collections.config_dict"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["ml_collections.config_dict"].ConfigDict = ConfigDict
    monkeypatch.setattr(ConfigDict, "__module__", "ml_collections.config_dict")
    weights = {}
    for room in rooms:
        trained, buffers = layout(f"msdiff_{room}")
        tensors = filled(trained) | {name: torch.eye(4).repeat(3, 1, 1) for name in buffers}
        weights |= {f"score_model.{room}.{name}": value for name, value in tensors.items()}
    change(weights)
    callbacks = {"ModelCheckpoint": {"best": None}}
    callbacks |= {"EMA": {"ema_state_dict": weights, "_ema_state_dict_ready": True}} if average else {}
    raw = {name: value + 0.25 for name, value in weights.items()}
    arguments = {"configs": {room: ConfigDict(data=ConfigDict(image_size=8)) for room in rooms}}
    torch.save({"state_dict": raw, "callbacks": callbacks, "hyper_parameters": arguments, "epoch": 3}, path)
    return f"msdiff,image_size=8,num_head_channels=16:{path}"


def outputs(net):
    c_noise = torch.tensor([3.0, 870.0])
    with torch.no_grad():
        return {"d1": eight(net(image(2, 3, 8, 8), c_noise)), "a1": eight(net(image(2, 3, 4, 4), c_noise))}


def test_the_network_of_each_size_returns_what_theirs_does(tmp_path, monkeypatch):
    address = write(tmp_path / "last.ckpt", monkeypatch)
    run = load_run(address)
    for room, found in outputs(run.denoiser.backbone).items():
        torch.testing.assert_close(found, torch.tensor(THEIRS[room]), rtol=0, atol=1e-5)
    raw = outputs(load_run(address, "raw").denoiser.backbone)
    assert (raw["d1"] - torch.tensor(THEIRS["d1"])).abs().max() > 0.1
    assert run.sampling() == {"sampler": "euler_maruyama", "steps": 256}
    assert run.config["source"]["stages"] == ["score_model.d1", "score_model.a1"]


def test_it_is_the_score_of_haar_coefficients_of_images_from_0_to_1(tmp_path, monkeypatch):
    denoiser = load_run(write(tmp_path / "last.ckpt", monkeypatch)).denoiser
    x = (image(2, 3, 8, 8).double() + 1) / 2
    assert isinstance(denoiser.codec, Affine)
    torch.testing.assert_close(denoiser.codec.encode(image(2, 3, 8, 8).double()), x)
    t = torch.tensor([0.2, 0.2], dtype=torch.float64)
    with torch.no_grad():
        network = denoiser.backbone.stages[0](x.float(), 999 * t.float()).double()
        found = denoiser(denoiser.process.basis.from_pixels(x), t).u_0
    # Both bands at t = 0.2 of ends 0.5 and 1, MSDiff's SNR_VP_SDE; x_0 = (x + sigma^2 score) / a of every coefficient.
    log_snr = torch.tensor([10 - 20 * 0.199 / 0.499] * 3 + [10 - 20 * 0.199 / 0.999], dtype=torch.float64)
    haar, log_snr = Haar(), log_snr.roll(1).repeat_interleave(3)[:, None, None]  # the approximation is first
    coefficients, score = haar.encode(x), haar.encode(network)
    x_0 = (coefficients + torch.sigmoid(-log_snr) * score) / torch.sigmoid(log_snr).sqrt()
    torch.testing.assert_close(denoiser.process.basis.to_pixels(found), haar.decode(x_0), rtol=0, atol=1e-5)


WRONG = {
    "a size": (lambda w: [w.pop(k) for k in list(w) if ".a1." in k], "score_model.a1 is missing"),
    "one more size": (lambda w: w.update({"score_model.a2.x": torch.zeros(1)}), "score_model.a2 is unknown"),
    "another module": (lambda w: w.update({"teacher.x": torch.zeros(1)}), "teacher.x is unknown"),
    "a tensor": (
        lambda w: w.pop("score_model.a1.out.2.bias"),
        "the weights of score_model.a1 in .* do not fit: out.2.bias is missing",
    ),
    "one too many": (
        lambda w: w.update({"score_model.d1.more": torch.zeros(2)}),
        "the weights of score_model.d1 in .* do not fit: more 2 is unknown",
    ),
    "another network": (lambda w: w.pop("score_model.d1.time_embed.0.weight"), "time_embed.0.weight is missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path, monkeypatch):
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message) as caught:
        load_run(write(tmp_path / "last.ckpt", monkeypatch, change=change))
    assert "\n" not in str(caught.value)


def test_other_files_are_told_from_checkpoints(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="holds no averaged weights; give `weights=raw`"):
        load_run(write(tmp_path / "last.ckpt", monkeypatch, average=False))
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="is no checkpoint of Lightning: it holds no 'state_dict'"):
        load_run(f"msdiff:{tmp_path / 'x.ckpt'}")
    assert main(["sample", f"msdiff:{tmp_path / 'no.ckpt'}"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no file ")
    address = write(tmp_path / "last.ckpt", monkeypatch).replace("image_size=8", "image_size=7")
    with pytest.raises(UserError, match="images of 7 pixels cannot be halved 1 times"):
        load_run(address)


def test_the_uniform_baseline_is_one_network(tmp_path, monkeypatch):
    def alone(weights):
        for name in [name for name in weights if ".a1." in name]:
            del weights[name]
        for name in list(weights):
            weights[name.replace(".d1.", ".")] = weights.pop(name)

    run = load_run(write(tmp_path / "last.ckpt", monkeypatch, change=alone))
    with torch.no_grad():
        y = run.denoiser.backbone(image(2, 3, 8, 8), torch.tensor([3.0, 870.0]))
    torch.testing.assert_close(eight(y), torch.tensor(THEIRS["d1"]), rtol=0, atol=1e-5)
    assert type(run.denoiser.process).__name__ == "VP"
