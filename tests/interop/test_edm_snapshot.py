"""Snapshots of EDM: outputs equal those of its own code, and what does not fit is told."""

import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.diffusion import Given
from denoisezoo.diffusion.capabilities import nearest_time
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import SNAPSHOTS, eight, image, write_snapshot

# NVlabs/edm 008a4e5, training/networks.py: F of the network for images of `image`, and D for twice those at sigma 2 (or
# the nearest level of improved DDPM), on a CPU in float32. Labels 0 and 2, augmentation labels 0.5 and -0.25.
F = {
    "edm_ddpmpp": [0.234596, -0.130096, -0.269772, -0.000272, 0.514543, -0.048684, 0.728844, 0.521993],
    "edm_ncsnpp": [-0.430127, -0.872013, -0.714884, -0.624575, -0.106173, -0.74454, -1.346954, -0.091905],
    "edm_adm": [0.250845, 0.073264, -0.389449, -0.000986, 0.004748, 0.629185, -0.373949, 0.268874],
    "edm_ddpmpp_vp": [-0.243421, 0.345069, -0.142112, 0.390815, 0.268007, 0.117234, -0.223841, 0.007629],
}
D = {
    "edm_ddpmpp": [0.269031, -0.1697, -0.193625, -0.112181, 0.119703, 0.094752, 0.216268, 0.102877],
    "edm_ncsnpp": [1.052522, -2.298612, -3.100226, -2.742241, -1.670934, 0.710006, -3.80275, -2.0903],
    "edm_adm": [1.58804, -2.76296, -2.553181, 0.174195, -0.771798, 2.272431, -2.357628, -1.268983],
    "edm_ddpmpp_vp": [2.151063, -3.174134, -0.890571, -2.217412, -2.113512, 2.227273, -0.81401, -1.35839],
}
C_NOISE = {"edm_ddpmpp": [0.3, -1.2], "edm_ncsnpp": [0.3, -1.2], "edm_adm": [3.0, 870.0], "edm_ddpmpp_vp": [3.0, 870.0]}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_outputs_are_those_of_edm(name, tmp_path, monkeypatch):
    run = load_run(f"edm:{write_snapshot(tmp_path / 'network.pkl', name, monkeypatch)}")
    denoiser, sign = run.denoiser, -1 if name == "edm_ncsnpp" else 1
    labelled = denoiser.backbone.spec.num_classes > 0
    given = Given(
        label=torch.tensor([0, 2]) if labelled else None,
        augment=torch.tensor([[0.5] * 2, [-0.25] * 2]) if labelled else None,
    )
    with torch.no_grad():
        y = denoiser.backbone(image(2, 3, 8, 8), torch.tensor(C_NOISE[name]), given)
        torch.testing.assert_close(sign * eight(y), torch.tensor(F[name]), rtol=0, atol=1e-5)
        process = denoiser.process
        sigma = torch.tensor([2.0, 2.0], dtype=torch.float64)
        t = nearest_time(process, process.t_of_sigma(sigma))
        found = denoiser(2 * image(2, 3, 8, 8).double() * process.alpha(t)[:, None, None, None], t, given)
    torch.testing.assert_close(eight(found.u_0).float(), torch.tensor(D[name]), rtol=0, atol=3e-4)
    assert run.sampling() == {"sampler": "edm", "steps": 18}


def write(tmp_path, monkeypatch, **how):
    return f"edm:{write_snapshot(tmp_path / 'network.pkl', 'edm_ddpmpp', monkeypatch, **how)}"


def test_an_imported_run_is_whole_without_the_original(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    address = write(tmp_path, monkeypatch)
    before = load_run(address)
    assert main(["import", address, "--out", "runs/edm"]) == 0
    assert "customary sampler: edm, 18 steps" in capsys.readouterr().out
    (tmp_path / "network.pkl").unlink()
    after = load_run("runs/edm")
    for name, value in before.denoiser.state_dict().items():
        assert torch.equal(after.denoiser.state_dict()[name], value)
    assert after.config["source"]["file"] == "network.pkl"
    assert len(after.config["source"]["sha256"]) == 64
    assert main(["sample", "runs/edm", "--num", "1", "--label", "2"]) == 0
    assert (tmp_path / "runs" / "edm" / "samples" / "edm_18_label_2" / "grid.png").is_file()
    assert main(["sample", "runs/edm", "--num", "1", "--label", "3"]) == 2
    assert main(["profile", "runs/edm", "--counts-only", "--sampler", "edm", "--steps", "2"]) == 0
    assert main(["export", "runs/edm", "--out", "edm.safetensors"]) == 0
    assert load_run("edm.safetensors").config == after.config


def test_a_foreign_run_is_evaluated_on_images_that_are_given(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    address = write(tmp_path, monkeypatch)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 40, 90)).save(tmp_path / "photos" / f"{i}.png")
    words = ["evaluate", address, "--num", "8", "--steps", "2", "--sampler", "heun"]
    assert main(words) == 2
    assert "says nothing of its data; add --data.path" in capsys.readouterr().err
    assert main([*words, "--data.path", "photos"]) == 0


WRONG_ARGUMENTS = {
    "channel_mult_emb": (2, "has channel_mult_emb 2; only 4 is known here"),
    "decoder_type": ("skip", "has decoder_type 'skip'; only standard is known here"),
    "encoder_type": ("skip", "has encoder_type 'skip'"),
    "gating": (1, "unknown argument of SongUNet in .*: 'gating'"),
    "dropout": ("much", "dropout of the SongUNet in .* is no number"),
    "num_blocks": (2, "do not fit: enc.8x8_block1.norm0.weight is missing"),
    "model_channels": (16, "map_label.weight is 8x3 and should give 16x3"),
    "resample_filter": ([1, 2, 2, 1], "is 1x1x2x2 and should give 1x1x4x4"),
}


@pytest.mark.parametrize("argument", WRONG_ARGUMENTS)
def test_another_configuration_is_refused(argument, tmp_path, monkeypatch):
    value, message = WRONG_ARGUMENTS[argument]
    with pytest.raises(UserError, match=message):
        load_run(write(tmp_path, monkeypatch, **{argument: value}))


def test_the_first_ten_tensors_that_do_not_fit_are_named(tmp_path, monkeypatch):
    def spoil(weights):
        for key in [key for key in weights if key.startswith("dec.") and key.endswith("bias")][:12]:
            del weights[key]
        weights["map_label.more"] = torch.zeros(3)

    with pytest.raises(UserError) as caught:
        load_run(write(tmp_path, monkeypatch, change=spoil))
    assert caught.value.what.count("is missing") == 10
    assert "and 3 more" in caught.value.what
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    def spoil(weights):
        weights["map_layer0.bias"][0] = float("nan")

    with pytest.raises(UserError, match=r"embedding.first.bias holds NaN or infinity"):
        load_run(write(tmp_path, monkeypatch, change=spoil))


def test_the_box_filter_is_checked(tmp_path, monkeypatch):
    def spoil(weights):
        weights["enc.4x4_down.skip.resample_filter"][0, 0, 0, 0] = 1

    with pytest.raises(UserError, match=r"enc.4x4_down.skip.resample_filter is not the filter of"):
        load_run(write(tmp_path, monkeypatch, change=spoil))


def test_weights_that_the_file_has_not_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds the ema weights alone; give `weights=ema`"):
        load_run(write(tmp_path, monkeypatch), weights="raw")
