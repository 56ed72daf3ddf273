"""Each example out of the tree, from Python and, where a command can reach it, from the command line."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import denoisezoo as dz
from denoisezoo import cli
from denoisezoo.archs.variants import _VARIANTS
from denoisezoo.train.efforts import training_macs

HERE = Path(__file__).parent


EXAMPLES = [path for path in sorted(HERE.glob("*.py")) if not path.name.startswith(("_", "test_"))]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 150


# (a) A transformer that reads tokens.


@pytest.fixture
def token_transformer(monkeypatch):
    """The example, registered for the length of a test."""
    dz.list_denoisers()  # the zoo itself stays registered
    monkeypatch.setattr(_VARIANTS, "_items", {**_VARIANTS._items})
    monkeypatch.setattr(_VARIANTS, "_origin", {**_VARIANTS._origin})
    name = "tests.examples.token_transformer"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name)


def test_a_family_costs_what_is_counted_by_hand(token_transformer):
    N, L, D, width = 16, 5, 8, 32  # patches, tokens, numbers of a token, channels
    itself = 4 * N * width**2 + 2 * N * N * width
    cross = 2 * N * width**2 + 2 * L * width**2 + 2 * N * L * width
    feed = 4 * N * width**2
    ends = 2 * N * 16 * width + width + width**2 + L * D * width
    (row,) = dz.profile("token_transformer_tiny", counts_only=True).rows()
    declared = dz.info("token_transformer_tiny").variant.costs[0]
    assert row["macs"] == declared.macs == 2 * (itself + cross + feed) + ends
    assert row["params"] == declared.params


def test_a_network_is_told_tokens(token_transformer):
    torch.manual_seed(0)
    denoiser = dz.create_denoiser("token_transformer_tiny")
    tokens = torch.randn(2, 7, 8)
    mask = torch.tensor([[True] * 3 + [False] * 4] * 2)

    def sample(**given):
        return denoiser.sample(2, steps=2, given=dz.Given(**given)).images

    assert sample(tokens=tokens).shape == (2, 1, 16, 16)
    assert not torch.equal(sample(tokens=tokens), sample(tokens=-tokens))
    torch.testing.assert_close(sample(tokens=tokens, tokens_mask=mask), sample(tokens=tokens[:, :3]))
    with pytest.raises(dz.UserError, match="a token has 9 numbers; this network takes 8"):
        sample(tokens=torch.randn(2, 7, 9))


def test_an_installed_family_is_found_by_commands(tmp_path):
    about = tmp_path / "token_transformer-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: token-transformer\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[denoisezoo.plugins]\ntransformer = token_transformer\n")
    words = ["profile", "token_transformer_tiny", "--counts-only", "--json", str(tmp_path / "rows.json")]
    places = os.pathsep.join([str(tmp_path), str(HERE), str(HERE.parents[1])])
    subprocess.run([sys.executable, "-m", "denoisezoo", *words], check=True, env=os.environ | {"PYTHONPATH": places})
    assert json.loads((tmp_path / "rows.json").read_text())[0]["macs"] == 409_888


# (c) Data of your own.


@pytest.fixture
def scans():
    """40 scans (16, 16) uint8 of 4 classes."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (16, 16), dtype=np.uint8) for _ in range(40)], [i % 4 for i in range(40)]


def test_arrays_are_data(scans):
    from tests.examples.own_images import ArrayImages

    arrays, classes = scans
    data = ArrayImages(arrays, classes, batch_size=8, horizontal_flip=False, labels=True)
    batch = next(iter(data.train_dataloader()))
    shown = [torch.from_numpy(array) for array in arrays]
    pixels = ((batch["image"][0, 0] + 1) * 127.5).round().to(torch.uint8)
    (index,) = [i for i, array in enumerate(shown) if torch.equal(array, pixels)]
    assert batch["label"][0] == classes[index]
    assert [len(data.images(split)) for split in ("train", "test")] == [36, 4]
    denoiser = dz.create_denoiser("ddpm_digits")
    assert dz.evaluate(denoiser, data, num=8, sampler="euler", steps=1).card.dataset == "arrays"


class Listed:
    """What `datasets.Dataset` is, as far as anybody looks."""

    def __init__(self, arrays, classes):
        from PIL import Image

        self.items = [{"image": Image.fromarray(a), "label": c} for a, c in zip(arrays, classes, strict=True)]
        self.features = {"label": type("ClassLabel", (), {"names": ["a", "b", "c", "d"]})}

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_hugging_face_data_set_is_data(scans):
    from tests.examples.own_images import HuggingFaceImages

    arrays, classes = scans
    data = HuggingFaceImages({"train": Listed(arrays, classes)}, resolution=16, channels=1, batch_size=8, labels=True)
    assert (data.class_names, data.num_classes, len(data.images("test"))) == (("a", "b", "c", "d"), 4, 0)
    assert torch.equal(data.images()[5, 0], torch.from_numpy(arrays[5]))
    smaller = HuggingFaceImages({"train": Listed(arrays, classes)}, resolution=8, channels=3, batch_size=8)
    assert smaller.images().shape == (40, 3, 8, 8)


def test_a_file_of_arrays_is_trained_on_and_trusted(scans, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "scans.npz", images=np.stack(scans[0]))
    folder = tmp_path / "run"
    words = ["--data", "tests.examples.own_images.NpzImages", "--data.init_args.file", str(tmp_path / "scans.npz")]
    words += ["--data.init_args.batch_size", "8", "--trainer.max_steps", "1", "--trainer.accelerator", "cpu"]
    words += ["--samples.every_n_steps", "0", "--trainer.default_root_dir", str(folder)]
    assert cli.main(["train", "--config", "digits/ddpm", *words]) == 0
    judged = ["evaluate", str(folder), "--num", "4", "--sampler", "euler", "--steps", "1", "--device", "cpu"]
    assert cli.main(judged) == 2
    assert "whose code is not trusted" in capsys.readouterr().err
    assert cli.main([*judged, "--trust", "tests"]) == 0
    denoiser = dz.load(folder, trust=("tests",))
    assert len(denoiser.run.data().images("all")) == 40  # read later, and trusted still
    with pytest.raises(dz.UserError, match=r"whose code is not trusted.*`trust=tests`"):
        dz.load(folder).run.data()


def test_what_was_trained_on_own_data_is_trusted_with_them(scans, tmp_path):
    np.savez(tmp_path / "scans.npz", images=np.stack(scans[0]), classes=scans[1])
    arguments = {"file": tmp_path / "scans.npz", "batch_size": 8}
    run = dz.train(
        "digits/ddpm",
        data={"class_path": "tests.examples.own_images.NpzImages", "init_args": arguments},
        trainer={"max_steps": 1, "accelerator": "cpu", "default_root_dir": tmp_path / "run"},
        samples={"every_n_steps": 0},
    )
    assert run.data().class_names == ("0", "1", "2", "3")


# (e) Latents of an autoencoder.

ENCODE = 16 * 16 * 9 * 1 * 8 + 8 * 8 * 4 * 8 * 4  # a convolution of 3x3, then one of 2x2 with stride 2
DECODE = 8 * 8 * 4 * 4 * 8 + 16 * 16 * 9 * 8 * 1  # a transposed one of 2x2, then one of 3x3
OF_LATENTS = {"in_channels": 4, "out_channels": 4, "resolution": 8}


def test_latents_are_trained_sampled_evaluated_and_priced_by_command(tmp_path, capsys):
    folder, price = tmp_path / "run", tmp_path / "price.json"
    words = [f"--model.network.{key}={value}" for key, value in OF_LATENTS.items()]
    words += ["--imports", "[tests.examples.latents]", "--model.codec", "toy_autoencoder", "--trainer.max_steps", "2"]
    words += ["--trainer.accelerator", "cpu", "--samples.every_n_steps", "0", "--trainer.default_root_dir", str(folder)]
    assert cli.main(["train", "--config", "digits/ddpm", *words]) == 0
    walk = ["--sampler", "heun", "--steps", "2"]
    assert cli.main(["profile", str(folder), *walk, "--counts-only", "--json", str(price)]) == 2
    assert "whose code is not trusted" in capsys.readouterr().err
    walk += ["--trust", "tests"]
    assert cli.main(["profile", str(folder), *walk, "--counts-only", "--json", str(price)]) == 0
    (row,) = json.loads(price.read_text())
    assert row["macs_per_image"] == 3 * row["macs"] + DECODE
    assert row["trajectory"][-1]["label"] == "decode"
    assert "decode" in capsys.readouterr().out
    assert (
        cli.main(["sample", str(folder), *walk, "--num", "2", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    )
    judged = ["evaluate", str(folder), *walk, "--num", "4", "--device", "cpu", "--json", str(tmp_path / "result.json")]
    assert cli.main(judged) == 0
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert (result["codec"], result["macs_per_image"]) == ("toy_autoencoder", row["macs_per_image"])

    from tests.examples.latents import ToyAutoencoder

    fresh, run = ToyAutoencoder(), dz.load(folder, trust=("tests",)).run
    assert result["codec_sha256"] == run.denoiser.codec.weights_sha256() == fresh.weights_sha256()
    with_encoder, images = run.facts["train_macs"], run.facts["images_seen"]
    assert with_encoder == images * (training_macs(dz.create_denoiser(run.denoiser.backbone)) + ENCODE)
    kept = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    name = "denoiser.codec.decoder.0.weight"
    places = [kept[state][name].data_ptr() for state in ("state_dict", "current_model_state")]
    assert places[0] == places[1], "averaged and raw weights share the codec"
    assert not any("codec" in str(key) for key in kept["optimizer_states"][0]["state"])
    assert len(kept["optimizer_states"][0]["state"]) == len([*run.denoiser.backbone.parameters()])


def test_a_fitted_codec_is_given_to_a_denoiser():
    from tests.examples.latents import ToyAutoencoder

    images = dz.data.Digits(batch_size=16).images("train")[:64].float() / 127.5 - 1
    codec = ToyAutoencoder().fit(images, steps=30)
    assert (codec(images) - images).square().mean() < 0.5 * images.var()
    denoiser = dz.create_denoiser("ddpm_digits", codec=codec, **OF_LATENTS)
    network = denoiser.backbone.num_params()
    (row,) = dz.profile(denoiser, sampler="ddim", steps=2, counts_only=True).rows()
    assert (row["params"], row["macs_per_image"]) == (network, 2 * row["macs"] + DECODE)
    told = dz.create_denoiser("ddpm_digits", codec=codec, cond_channels=4, **OF_LATENTS)
    (row,) = dz.profile(told, sampler="ddim", steps=2).rows()
    first, *calls, last = row["trajectory"]
    assert (first["label"], first["macs"], len(calls)) == ("encode", ENCODE, 2)
    assert (last["label"], last["macs"], last["latency_ms"] > 0) == ("decode", DECODE, True)
    assert row["macs_per_image"] == 2 * row["macs"] + ENCODE + DECODE


# (f) A network from elsewhere.


@pytest.fixture
def foreign():
    diffusers = pytest.importorskip("diffusers", reason="the test extra brings diffusers")
    from tests.examples.foreign_unet import ForeignUNets

    def unet(width):
        return diffusers.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width),
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )

    torch.manual_seed(0)
    return dz.create_denoiser(ForeignUNets(unet(8), unet(16)), dz.diffusion.VPDiscrete())


def test_a_foreign_network_is_asked_as_its_authors_do(foreign):
    u, step = torch.randn(2, 1, 16, 16), 300
    foreign.eval()
    with torch.inference_mode():
        ours = foreign(u, torch.full((2,), step + 1.0, dtype=torch.float64)).eps  # the first step is 1 here, 0 there
        theirs = foreign.backbone.unets[1](u, step).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_foreign_network_is_sampled_evaluated_priced_and_planned(foreign):
    data, walk = dz.data.Digits(batch_size=16), {"sampler": "ddim", "steps": 4}
    small, large = dz.profile(foreign, counts_only=True, **walk).rows()
    assert (small["effort"], large["effort"]) == (0.5, 1.0)
    assert small["macs"] < large["macs"] == large["macs_per_image"] / 4
    found = dz.search(foreign, 0.7, data=data, images=4, **walk)
    row = found.rows()[0]
    assert small["macs_per_image"] < row["macs_per_image"] <= 0.7 * large["macs_per_image"]
    plan = found.plan()
    assert foreign.sample(2, plan=plan, **walk).images.shape == (2, 1, 16, 16)
    card = dz.evaluate(foreign, data, num=4, plan=plan, **walk).card
    assert (card.macs_per_image, card.weights, card.train_steps) == (row["macs_per_image"], "given", None)
