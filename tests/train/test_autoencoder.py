"""An autoencoder through the trainer, and denoisers of its latents."""

import json

import pytest
import torch

import denoisezoo as dz
from denoisezoo import cli
from denoisezoo.diffusion import create_codec, create_denoiser
from denoisezoo.errors import UserError
from denoisezoo.files import sha256
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import AtomicCheckpointIO, read_checkpoint

FEW = (
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
    *("--trainer.limit_val_batches", "0", "--data.init_args.batch_size", "16", "--model.network.channels", "4"),
)
LATENT = ("--model.network.in_channels=2", "--model.network.out_channels=2", "--model.network.resolution=8")


def train(folder, *words, steps=2, config="digits/autoencoder"):
    return cli.main(
        [
            *("train", "--config", config, *FEW, "--trainer.max_steps", str(steps)),
            *("--checkpoint.every_n_steps", "2", "--trainer.default_root_dir", str(folder), *map(str, words)),
        ]
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    assert train(folder, steps=4) == 0
    return folder


def test_its_checkpoint_makes_a_codec_of_averaged_weights_and_unit_variance(autoencoder):
    codec, content = create_codec(f"autoencoder:path={autoencoder}"), load_run(autoencoder)
    state = content.denoiser.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in codec.network.state_dict().items())
    raw = load_run(autoencoder, "raw").denoiser.backbone
    assert not torch.equal(raw.latent_std, codec.network.latent_std)  # each has its own
    images = dz.data.Digits().images("train")
    z = codec.to_latents(dz.pixels.to_float(images), torch.Generator().manual_seed(0))
    assert z.std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.01)
    assert codec.latent_shape(1, 16, 16) == (2, 8, 8)
    assert codec.facts()["codec_sha256"] == create_codec(f"autoencoder:path={autoencoder}").weights_sha256()


def test_it_goes_on_as_if_it_had_never_stopped(autoencoder, tmp_path):
    assert train(tmp_path / "run") == 0
    assert train(tmp_path / "run", steps=4) == 0
    ends = [read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (tmp_path / "run", autoencoder)]
    for key in ("state_dict", "current_model_state"):
        ours, theirs = (end[key] for end in ends)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_it_is_evaluated_by_what_comes_back(autoencoder, tmp_path, capsys):
    out = tmp_path / "evaluation"
    words = ["evaluate", str(autoencoder), "--out", str(out), "--device", "cpu", "--num", "40"]
    assert cli.main(words) == 0
    row = json.loads((out / "result.json").read_text())
    codec, images = create_codec(f"autoencoder:path={autoencoder}"), dz.data.Digits().images("test")[:40]
    image = dz.pixels.to_float(images)
    made = codec.to_images(codec.to_latents(image)).clamp(-1, 1)
    error = ((made - image).double() / 2).square().mean((1, 2, 3))
    assert row["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3)
    assert row["fd_pixels"] > 0
    assert (row["num_generated"], row["split"], row["codec"]) == (40, "test", "autoencoder")
    assert row["encode_macs"] + row["decode_macs"] == row["macs_per_image"] == 41_984 * 4 + 89_600 * 4
    assert row["encode_ms"] > 0 < row["decode_ms"]
    assert (out / "samples.png").is_file()
    assert not (out / "neighbours.png").exists()
    capsys.readouterr()
    for words, message in (
        (["sample", str(autoencoder)], "this is an autoencoder, and makes no images out of noise"),
        (["search", str(autoencoder), "--budget", "0.5"], "has one effort: there is nothing to choose"),
        (["evaluate", str(autoencoder), "--by-class"], "--by-class is for denoisers"),
        (["evaluate", str(autoencoder), "--reference", str(out)], "is judged by the images that it is given"),
        (["profile", str(autoencoder), "--sampler", "ddim", "--steps", "2", "--counts-only"], "this is an autoencoder"),
    ):
        assert cli.main(words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_denoiser_of_its_latents_needs_its_run_no_longer_than_training(autoencoder, tmp_path, capsys):
    there = tmp_path / "moved"
    words = ("--model.codec", f"autoencoder:path={there}", *LATENT, "--samples.every_n_steps", "0")
    few = [word for word in FEW if word not in ("--model.network.channels", "4")]
    command = [
        *("train", "--config", "digits/ddpm", *few, "--trainer.max_steps", "2", *words),
        *("--trainer.default_root_dir", str(tmp_path / "run")),
    ]
    assert cli.main(command) == 2
    assert "is no folder of a run; give the run of an autoencoder" in capsys.readouterr().err
    there.symlink_to(autoencoder)
    assert cli.main(command) == 0
    there.unlink()
    run = load_run(tmp_path / "run")
    kept = create_codec(f"autoencoder:path={autoencoder}")
    assert run.denoiser.codec.weights_sha256() == kept.weights_sha256()
    assert run.denoiser.image_shape == (1, 16, 16)
    assert run.denoiser.sample(2, steps=2).images.shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match="holds a DDPM, which is no autoencoder; give one's run"):
        create_codec(f"autoencoder:path={tmp_path / 'run'}")
    with pytest.raises(UserError, match="latents of 2 channels, and the network takes 1"):
        create_denoiser("ddpm_digits", codec=kept)
    with pytest.raises(UserError, match="encodes images of 1 channels, not 3"):
        kept.latent_shape(3, 16, 16)


def test_latents_that_never_vary_are_refused(autoencoder, tmp_path):
    content = read_checkpoint(autoencoder / "checkpoints" / "last.ckpt")
    content["state_dict"]["denoiser.backbone.latent_std"][1] = 0.0
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"channel 1 of the latents of .* is constant"):
        create_codec(f"autoencoder:path={tmp_path / 'last.ckpt'}")
    with pytest.raises(UserError, match="std is 0"):
        create_codec(f"autoencoder:path={autoencoder},std=0")
    with pytest.raises(UserError, match="has no weights; give path"):
        create_codec("autoencoder")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="is damaged"):
        create_codec(f"autoencoder:path={tmp_path / 'text.ckpt'}")


def test_every_part_of_the_objective_trains(autoencoder, tmp_path, monkeypatch):
    """With a perceptual and an adversarial loss, in bfloat16, by a teacher whose encoder stays."""
    from denoisezoo.diffusion import perceptual

    monkeypatch.setattr(perceptual, "STEPS", 1)
    sizes = "{channels: 4, widths: [4], dropout: 0.0}"
    weights = ("--model.objective.perceptual", "0.5", "--model.objective.adversarial", "0.1")
    words = (*weights, "--model.objective.discriminator", sizes, "--trainer.precision", "bf16-mixed")
    teacher = ("--model.objective.teacher", autoencoder, "--model.network.decoder_channels", "8")
    assert train(tmp_path / "run", *words, *teacher) == 0
    run, theirs = load_run(tmp_path / "run"), load_run(autoencoder).denoiser.backbone
    ours = run.denoiser.backbone
    for name, value in theirs.encoder.state_dict().items():
        assert torch.equal(value, ours.encoder.state_dict()[name])
    assert torch.equal(ours.latent_std, theirs.latent_std)
    assert run.facts["perceptual"].startswith("classifier of digits")
    last = (autoencoder / "checkpoints" / "last.ckpt").resolve()
    assert read_checkpoint(run.checkpoint)["denoisezoo"]["teacher_sha256"] == sha256(last)
