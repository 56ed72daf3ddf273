"""Runs by another reference, and images from anywhere: the same figures on the same images, and what does not fit."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.data import Digits, Paired, StrokeMask
from denoisezoo.diffusion import Haar, Pixels
from denoisezoo.evaluation.conditions import held_out
from denoisezoo.evaluation.features import create_features
from denoisezoo.evaluation.frechet import frechet_distance, gaussian_stats
from denoisezoo.evaluation.reconstruction import reconstruction_figures
from denoisezoo.pixels import to_float
from denoisezoo.runs.assessor import figures_of_task, make_evaluator
from denoisezoo.runs.changed import with_places
from denoisezoo.runs.reconstructing import reconstruct
from denoisezoo.runs.run import Run
from denoisezoo.runs.terms import make_settings

TERMS = ["--num", "24", "--sampler", "euler", "--steps", "1"]


def write_pngs(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:04}.png")
    return folder


def row_of(path):
    (row,) = json.loads(path.read_text())
    return row


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def real(home):
    """The held-out digits as a folder, a zip file and an .npz file."""
    images = Digits().images("test")
    folder = write_pngs(home / "real", images)
    with zipfile.ZipFile(home / "real.zip", "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    np.savez(home / "real.npz", images.permute(0, 2, 3, 1).numpy())
    return images


FIGURES = ("fd_pixels", "fd_pixels_halves", "fd_pixels_over_halves", "precision", "recall")


def test_images_have_the_figures_of_the_run_that_made_them(home, real, trained):
    trained()
    assert main(["evaluate", "run", *TERMS, "--split", "test", "--json", "run.json"]) == 0
    assert main(["sample", "run", *TERMS, "--out", "made"]) == 0
    assert main(["evaluate", "run", *TERMS, "--reference", "real.zip", "--json", "other.json"]) == 0
    expected, of_run = row_of(home / "run.json"), row_of(home / "other.json")
    for reference in ("real", "real.zip", "real.npz"):
        words = ["evaluate", "--images", "made", "--reference", reference, "--json", "a.json", "--csv", "a.csv"]
        assert main(words) == 0
        of_images = row_of(home / "a.json")
        for figure in FIGURES:
            assert of_images[figure] == of_run[figure] == expected[figure]
    assert set(expected) - set(of_images) == {"nn_ratio", "memorised_share", "nearer_than_held_out"}
    facts = ("num_generated", "num_reference", "resolution", "features", "git_commit", "version_torch")
    assert [of_images[key] for key in facts] == [expected[key] for key in facts]
    unknown = {
        "params",
        "sampler",
        "steps",
        "nfe",
        "weights",
        "macs_per_image",
        "device",
        "device_name",
        "dtype",
        "seeds",
    }
    assert {of_images[key] for key in unknown} == {None}
    assert (of_images["dataset"], of_images["split"], of_images["name"]) == ("image_npz:real.npz", "all", "made")
    assert len(of_images["images_sha256"]) == len(of_images["dataset_sha256"]) == 64
    assert (home / "a.csv").read_text().splitlines()[0].startswith("name,family,run,fd_pixels")
    assert not (home / "run" / "evaluation" / "neighbours.png").exists()  # of the run's own data, which came first


def test_in_python_with_a_data_set_all_figures_are_those_of_the_run(trained):
    run = dz.load(trained()).run
    whole = dz.evaluate(run, num=24, sampler="euler", steps=1, split="test", progress=False)
    images = whole.generated.images
    again = dz.evaluate(images=images, reference=Digits(), split="test")
    assert again.metrics == whole.metrics
    held_out = Digits().images("test")
    figures = dz.evaluate(images=images, reference=held_out).metrics
    assert figures == {name: whole.metrics[name] for name in FIGURES}
    assert dz.evaluate(run, num=24, sampler="euler", steps=1, reference=held_out).metrics == figures
    assert again.png().startswith(b"\x89PNG")
    assert "fd_pixels" in str(again.summary().rows)


def test_statistics_that_were_written_give_the_same_distance(home, real, trained):
    trained()
    assert (
        main(["evaluate", "run", *TERMS, "--reference", "real", "--write-reference", "s.npz", "--json", "a.json"]) == 0
    )
    assert main(["evaluate", "run", *TERMS, "--reference", "s.npz", "--json", "b.json"]) == 0
    images, statistics = row_of(home / "a.json"), row_of(home / "b.json")
    assert statistics["fd_pixels"] == pytest.approx(images["fd_pixels"], rel=1e-6)
    assert (statistics["dataset"], statistics["num_reference"], statistics["split"]) == ("statistics:s.npz", 176, None)
    assert "precision" not in statistics
    with np.load("s.npz") as file:  # as pytorch-fid and EDM read it
        assert file["mu"].shape == (256,)
        expected = gaussian_stats(create_features("pixels").extract(real)).covariance
        torch.testing.assert_close(torch.from_numpy(file["sigma"]), expected)
    # And without a run: the statistics alone.
    assert main(["evaluate", "--reference", "real.zip", "--write-reference", "t.npz"]) == 0
    with np.load("s.npz") as ours, np.load("t.npz") as alone:
        assert np.array_equal(ours["sigma"], alone["sigma"])


def test_statistics_of_others_are_taken(home, real):
    """Of EDM and pytorch-fid, `mu` and `sigma` alone; of guided-diffusion beside images."""
    features = create_features("pixels").extract(real).double().numpy()
    mu, sigma = features.mean(0), np.cov(features, rowvar=False)
    np.savez("edm.npz", mu=mu, sigma=sigma)
    np.savez_compressed("guided.npz", arr_0=real.permute(0, 2, 3, 1).numpy(), mu=mu + 1, sigma=sigma)
    np.savez("other.npz", arr_0=real.permute(0, 2, 3, 1).numpy(), mu=np.zeros(2048), sigma=np.eye(2048))
    images = Digits().images("train")[:40]
    fake = gaussian_stats(create_features("pixels").extract(images))
    expected = frechet_distance(fake, gaussian_stats(torch.from_numpy(features)))
    result = dz.evaluate(images=images, reference="edm.npz")
    assert result.metrics == {"fd_pixels": pytest.approx(expected, rel=1e-6)}
    assert result.card.num_reference is None
    both = dz.evaluate(images=images, reference="guided.npz").metrics
    assert both["fd_pixels"] != pytest.approx(expected, rel=1e-3)
    of_images = dz.evaluate(images=images, reference="other.npz").metrics  # its statistics are of other features
    assert of_images["fd_pixels"] == pytest.approx(expected, rel=1e-6)
    assert both["precision"] == of_images["precision"]


def failing(words, capsys):
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_statistics_that_do_not_fit_are_one_line(home, real, trained, capsys):
    trained()
    square = np.eye(256)
    files = {
        "inception": {"mu": np.zeros(2048), "sigma": np.eye(2048)},
        "named": {"mu": np.zeros(256), "sigma": square, "features": "pixels16"},
        "half": {"mu": np.zeros(256)},
        "flat": {"mu": np.zeros(256), "sigma": np.zeros(256)},
        "nan": {"mu": np.full(256, np.nan), "sigma": square},
        "neither": {"x": square},
        "unknown": {"mu": np.zeros(256), "sigma": square},
    }
    for name, arrays in files.items():
        np.savez(f"{name}.npz", **arrays)
    expected = {
        "inception": "inception.npz holds statistics of 2048 features, and pixels has 256 of such images; give",
        "named": "named.npz holds statistics of the features pixels16, and features is pixels; give --features pixels1",
        "half": "half.npz holds mu, and no sigma; give a file with both",
        "flat": "mu of flat.npz is float64 (256,), and sigma float64 (256,); give floats (D,) and (D, D)",
        "nan": "statistics in nan.npz hold NaN or infinity; make them again",
        "neither": "neither.npz holds x, and no images arr_0; give images",
        "gone": "there is no gone.npz; give an .npz file",
    }
    for name, message in expected.items():
        words = ["--reference", f"{name}.npz", "--json", "out.json", "--write-reference", "w.npz"]
        line = failing(["evaluate", "run", "--sampler", "euler", "--steps", "1", *words], capsys)
        assert line.startswith(message), line
        assert failing(["evaluate", "--images", "real", *words], capsys).startswith(message)
    line = failing(["evaluate", "run", "--sampler", "euler", "--steps", "1", "--reference", "unknown.npz"], capsys)
    assert line == "the reference does not say of how many images it is; give --num, images to generate"
    assert "holds statistics already" in failing(
        ["evaluate", "--images", "real", "--reference", "unknown.npz", "--write-reference", "w.npz"], capsys
    )
    assert not {"out.json", "w.npz"} & {path.name for path in home.iterdir()}
    assert not (home / "run" / "evaluation" / "result.json").exists()


def test_images_that_do_not_fit_are_one_line(home, real, capsys):
    write_pngs(home / "large", torch.zeros(5, 1, 32, 32, dtype=torch.uint8))
    write_pngs(home / "few", real[:3])
    write_pngs(home / "one", real[:1])
    write_pngs(home / "wide", torch.zeros(5, 1, 16, 32, dtype=torch.uint8))
    (home / "mixed").mkdir()
    Image.fromarray(real[0, 0].numpy()).save("mixed/0.png")
    Image.new("L", (24, 16)).save("mixed/1.png")
    (home / "empty").mkdir()
    for images, reference, expected in [
        ("large", "real", "images in real are 16x16, and large holds images of 32x32; resize the ones or the others"),
        ("few", "real", "precision and recall need more than 3 images on each side, and one has 3; give more"),
        ("real", "one", "a Frechet distance needs at least 2 images on each side, and one has 1; give more"),
        ("wide", "real", "images in wide are 32x16; cut squares"),
        ("mixed", "real", "images in mixed differ in size: 0.png is 16x16 and 1.png is 24x16; cut and resize them"),
        ("empty", "real", "empty holds no images; put images in it"),
        ("gone", "real", "gone does not exist"),
        ("real", "gone.zip", "gone.zip does not exist"),
    ]:
        words = ["evaluate", "--images", images, "--reference", reference, "--json", "out.json", "--out", "out"]
        line = failing(words, capsys)
        assert line.startswith(expected)
        assert "data.path" not in line
    assert not {"out.json", "out"} & {path.name for path in home.iterdir()}


def test_words_that_do_not_go_together_are_one_line(home, real, trained, capsys):
    trained()
    images = ["evaluate", "--images", "real", "--reference", "real"]
    for words, expected in [
        (["evaluate"], "there is nothing to evaluate; give a RUN, or --images and --reference"),
        (images[:3], "nothing says what the images are compared with; give --reference"),
        ([*images, "--steps", "3"], "--steps is for runs, and none is given; give a RUN, or leave --steps out"),
        ([*images, "--data.path", "x"], "--data.path is for runs"),
        ([*images, "--split", "test"], "image_folder:real has no splits; leave --split out"),
        (["evaluate", "run", *images[1:]], "run is given, and --images too; give one of them"),
        (["evaluate", "run", "--reference", "real", "--data.path", "x"], "--reference is given, and data at x too"),
    ]:
        assert failing(words, capsys).startswith(expected)
    with pytest.raises(dz.UserError, match="`steps` says how to sample, and the images are there already"):
        dz.evaluate(images="real", reference="real", steps=3)
    with pytest.raises(dz.UserError, match="there is nothing to evaluate"):
        dz.evaluate()
    with pytest.raises(dz.UserError, match="a run or its data too"):
        dz.evaluate("run", images="real")
    with pytest.raises(dz.UserError, match=r"reference images|those of photos are \(3, 16, 16\)"):
        dz.evaluate(images=real, reference=dz.data.Photos(resolution=16))


def test_grey_images_kept_as_rgb_are_grey(real):
    again = real.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    np.savez("rgb.npz", again)
    assert dz.evaluate(images="rgb.npz", reference="real").metrics["fd_pixels"] < 1e-9
    again = again.copy()
    again[-1, 0, 0, 0] ^= 1
    np.savez("rgb.npz", again)
    assert dz.evaluate(images="rgb.npz", reference="real").images.shape == (176, 3, 16, 16)


def test_a_network_that_is_given_conditions_has_no_reference(tiny, real):
    denoiser = dz.create_denoiser(tiny, cond_channels=1)
    with pytest.raises(dz.UserError, match="is given conditions, and a reference has none; leave `reference` out"):
        dz.evaluate(denoiser, reference=real)


def test_a_run_that_names_no_data_takes_images_of_each_kind(home, real, tiny):
    network = {"resolution": 16, "in_channels": 1, "out_channels": 1}
    run = replace(Run.of(dz.create_denoiser(tiny, **network)), config={"data": {}})
    for path in ("real", "real.zip", "real.npz"):
        data = with_places(run, {"path": path}).data()
        assert data.images("all").shape == real.shape
        assert data.images("all").sum() == real.sum()


def test_what_comes_back_of_a_codec_is_held_to_what_went_in():
    """Pixels come back as they are, a Haar transform to rounding, and a codec of half the image loses half of it."""
    images = Digits().images("test")[:8]
    assert torch.equal(reconstruct(Pixels(), images, batch_size=3), to_float(images))
    assert (
        reconstruction_figures(reconstruct(Pixels(), images), images)["psnr"] == 100
    )  # infinite, as far as it is told
    assert (reconstruct(Haar(2), images) - to_float(images)).abs().max() < 1e-5
    assert reconstruction_figures(reconstruct(Haar(2), images), images)["psnr"] > 99
    half = Haar()
    half.decode = lambda z: Haar.decode(half, torch.cat([z[:, :1], torch.zeros_like(z[:, 1:])], 1))
    means = torch.nn.functional.avg_pool2d(to_float(images), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(reconstruct(half, images), means, atol=1e-5)


def test_binary_maps_are_judged_by_intersection_over_union():
    """The truth has 1; a sample that says the reverse everywhere has 0."""
    data, settings = Paired(data=Digits(), task=StrokeMask()), make_settings(device="cpu")
    conditions = held_out(data, 40, 5)
    truth = conditions.pair.x[conditions.index(40)]
    evaluator = make_evaluator(data, settings)
    for samples, expected in ((truth, 1.0), (-truth, 0.0)):
        figures, _ = figures_of_task(samples, conditions, data, settings, evaluator)
        assert figures["iou"] == expected
    assert figures["psnr"] == pytest.approx(0.0, abs=1e-6)  # every pixel is off by the whole range
