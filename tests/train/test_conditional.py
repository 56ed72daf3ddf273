"""Conditional runs in the shared trainer and every command: trained, sampled, evaluated, priced, refused."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from denoisezoo.cli import main
from denoisezoo.data import Digits
from denoisezoo.diffusion.generate import generate
from denoisezoo.errors import UserError
from denoisezoo.evaluation.conditions import drop_labels
from denoisezoo.nn.given import NOTHING
from denoisezoo.runs.drawing import price
from denoisezoo.runs.run import load_run
from denoisezoo.runs.terms import Settings
from denoisezoo.train.fit import train
from denoisezoo.train.module import DiffusionModule

JOINT = {"class_path": "Joint", "init_args": {"x": {"class_path": "GeometricVE"}, "channels": 1, "cond_channels": 1}}
ESTIMATORS = {
    "cde": ({"sigma_max": 0.0}, 2, 1),
    "cdiffe": ({}, 2, 2),
    "cmde": ({"sigma_max": 1.0}, 2, 2),
    "input_noise": ({"sigma_max": 1.0}, 2, 1),
    "vs_cmde": ({"falls_to": 1.0, "falls_in": 3}, 2, 2),
    "augmented": ({"sigma_max": 0.0, "augmented": 0.5, "augment_at": 0.1}, 3, 1),
}


@pytest.fixture
def conditional(recipe, tmp_path):
    """Makes the recipe conditional; returns arguments of `train`."""

    def make(*more, task="SuperResolution", process=None, network=None, folder="run", **options):
        config = yaml.safe_load(recipe.read_text())
        config["model"]["network"] |= network or {"cond_channels": 1}
        config["model"] |= {"process": process} if process else {}
        config["model"]["objective"] = {"class_path": "Simple"}
        task = {"class_path": task, "init_args": options} if isinstance(task, str) else task
        config["data"] = {"class_path": "Paired", "init_args": {"data": config["data"], "task": task}}
        path = tmp_path / "conditional.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["--config", str(path), "--trainer.default_root_dir", str(tmp_path / folder), *map(str, more)]

    return make


def estimator(name):
    options, inputs, outputs = ESTIMATORS[name]
    process = {"class_path": "Joint", "init_args": JOINT["init_args"] | options}
    return {"process": process, "network": {"in_channels": inputs, "out_channels": outputs}}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_trains_samples_and_resumes(conditional, tmp_path, name):
    words = conditional("--samples.every_n_steps", 4, "--samples.num", 10, "--samples.steps", 2, **estimator(name))
    assert train(words).steps == 4
    assert (tmp_path / "run" / "samples" / "step_00000004.png").is_file()
    out = tmp_path / "images"
    words = ["sample", str(tmp_path / "run"), "--sampler", "pc", "--steps", "2", "--num", "10", "--out", str(out)]
    assert main(words) == 0
    note = json.loads((out / "samples.json").read_text())
    assert (note["nfe"], note["conditions"]) == (4, [0, 1] * 5)
    picture = np.array(Image.open(out / "grid.png"))
    assert picture.shape[:2] == (2 * 66 + 2, 7 * 66 + 2)  # a condition, five samples, the truth


def test_the_speed_falls_with_the_steps_and_is_kept_by_the_checkpoint(conditional, tmp_path):
    train(conditional(**estimator("vs_cmde")))
    process = load_run(tmp_path / "run").denoiser.process
    y_0, y_T, M, n = process.high, 1.0, 3, 4
    assert process.sigma_max == pytest.approx(M * y_T * y_0 / (n * (y_0 - y_T) + M * y_T))
    assert process.sigma_max < 1  # it does not stop at its target


def test_a_resumed_conditional_run_is_the_unbroken_one(conditional, tmp_path):
    task = {"task": "Inpainting", **estimator("vs_cmde")}
    train(conditional("--trainer.max_steps", 4, folder="whole", **task))
    train(conditional("--trainer.max_steps", 2, folder="parts", **task))
    train(conditional("--trainer.max_steps", 4, folder="parts", **task))
    whole, parts = (load_run(tmp_path / name, "raw").denoiser.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_evaluate_tells_what_conditional_tasks_are_judged_by(conditional, tmp_path):
    train(conditional(task="Edges"))
    row = tmp_path / "row.json"
    words = ["evaluate", str(tmp_path / "run"), "--sampler", "ddim", "--steps", "2", "--num", "40"]
    assert main([*words, "--json", str(row)]) == 0
    found = json.loads(row.read_text())[0]
    assert {"psnr", "ssim", "consistency", "diversity", "fd_pixels_joint", "fd_pixels"} <= set(found)
    assert found["diversity"] > 0
    assert (found["task"], found["num_conditions"]) == ("edges 0.1 0.2", 8)
    assert found["dataset"] == "digits, edges 0.1 0.2"
    assert (tmp_path / "run" / "evaluation" / "samples.png").is_file()


def test_compare_of_conditional_recipes_works_unchanged(conditional, tmp_path):
    conditional(**estimator("cmde"))
    out = tmp_path / "compare"
    words = ["compare", str(tmp_path / "conditional.yaml"), "--budget", "images=64", "--sampler", "dpmpp_2m"]
    assert main([*words, "--steps", "2", "--num", "40", "--seeds", "0,1", "--out", str(out)]) == 0
    html, rows = (out / "report.html").read_text(), (out / "results.csv").read_text()
    assert "PSNR" in html
    assert "fd_pixels_joint" in rows.splitlines()[0]
    assert len(rows.splitlines()) == 3


def test_conditions_come_from_files(conditional, tmp_path, capsys):
    train(conditional(**estimator("cmde")))
    folder = tmp_path / "conditions"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.full((16, 16), 100 * i, np.uint8)).save(folder / f"{i}.png")
    run, out = str(tmp_path / "run"), tmp_path / "out"
    words = ["sample", run, "--sampler", "ddim", "--steps", "2", "--num", "6", "--draws", "3", "--out", str(out)]
    assert main([*words, "--condition", str(folder)]) == 0
    assert json.loads((out / "samples.json").read_text())["conditions"] == [0, 1] * 3
    assert np.array(Image.open(out / "grid.png")).shape[:2] == (2 * 66 + 2, 4 * 66 + 2)
    assert main([*words, "--condition", str(folder / "1.png")]) == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "2.png")
    assert main([*words, "--condition", str(folder)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "2.png is 8x8" in error
    assert "16x16" in error


def test_a_run_is_tried_on_another_variety_of_its_task(conditional, tmp_path, capsys):
    train(conditional("--trainer.max_steps", 1, task="Denoising"))
    row = tmp_path / "row.json"
    words = ["evaluate", str(tmp_path / "run"), "--sampler", "ddim", "--steps", "1", "--num", "10"]
    assert main([*words, "--task", "sigma=0.1", "--json", str(row)]) == 0
    assert json.loads(row.read_text())[0]["task"] == "denoising 0.1"
    for mistake, expected in (("sgma=0.1", "sigma"), ("sigma=-1", "sigma is -1"), ("sigma", "KEY=VALUE")):
        capsys.readouterr()
        assert main([*words, "--task", mistake]) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_profile_of_a_conditional_run(conditional, tmp_path):
    train(conditional(**estimator("cmde")))
    path = tmp_path / "p.json"
    words = ["profile", str(tmp_path / "run"), "--counts-only", "--sampler", "heun", "--steps", "2"]
    assert main([*words, "--json", str(path)]) == 0
    assert json.loads(path.read_text())[0]["nfe"] == 3


# Labels

LABELS = ("--data.labels", "true", "--model.network.num_classes", 10)


@pytest.fixture
def labelled(conditional):
    """Arguments of `train` for a task with labels."""

    def make(*more, dropout=0.5):
        words = ("--data.data.init_args.labels", "true", *LABELS[2:], "--model.label_dropout", dropout)
        return conditional(*words, *more, task="Edges")

    return make


def sampled(folder, out, *more):
    words = ["sample", str(folder), "--sampler", "ddim", "--steps", "2", "--num", "12", "--draws", "3"]
    assert main([*words, "--out", str(out), *more]) == 0
    return json.loads((out / "samples.json").read_text())


def test_samples_of_a_task_have_the_labels_of_their_conditions(labelled, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("denoisezoo.train.callbacks.generate", noting_labels(given))
    train(labelled("--samples.every_n_steps", 4, "--samples.num", 10, "--samples.steps", 2))
    data = Digits(labels=True)
    true = data.labels("test" if len(data.images("test")) else "train")
    assert true[:4].tolist() != [0, 1, 2, 3]  # else classes that go round would pass
    assert given[0].tolist() == true[:2].tolist() * 5
    run = tmp_path / "run"
    assert sampled(run, tmp_path / "a")["labels"] == true[:4].tolist() * 3
    assert sampled(run, tmp_path / "b", "--guidance", "2")["labels"] == true[:4].tolist() * 3
    assert sampled(run, tmp_path / "c", "--label", "7")["labels"] == [7] * 12


def noting_labels(labels):
    """`generate`, which also notes the labels that it is given."""

    def noting(*args, given=NOTHING, **options):
        labels.append(given.label)
        return generate(*args, given=given, **options)

    return noting


def test_conditions_from_files_have_no_label_but_that_of_the_command(labelled, tmp_path, capsys):
    train(labelled())
    file = tmp_path / "edges.png"
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(file)
    run, condition = tmp_path / "run", ("--condition", str(file))
    assert sampled(run, tmp_path / "a", *condition)["labels"] is None
    assert sampled(run, tmp_path / "b", *condition, "--label", "3", "--interpolate", "2")["labels"] == [3] * 12
    assert main(["sample", str(run), "--steps", "2", "--num", "3", *condition, "--guidance", "2"]) == 2
    assert "give --label" in capsys.readouterr().err


def test_a_network_that_always_had_labels_is_not_left_without(labelled, tmp_path, capsys):
    train(labelled(dropout=0.0))
    file = tmp_path / "edges.png"
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(file)
    words = ["sample", str(tmp_path / "run"), "--steps", "2", "--num", "3", "--condition", str(file)]
    assert main(words) == 2
    assert "give --label" in capsys.readouterr().err
    assert main([*words, "--label", "3"]) == 0


# Guidance


def test_guidance_doubles_calls_inside_its_interval(arguments, tmp_path, capsys):
    train(arguments(*LABELS, "--model.label_dropout", 0.5))
    run = load_run(tmp_path / "run")
    for interval, calls in (((0.0, float("inf")), 10), ((0.1, 10.0), 5 + 2)):
        settings = Settings(sampler="ddim", steps=5, guidance=2.0, guidance_interval=interval)
        walk = price(run, settings, timed=False)
        levels = [call.sigma for call in walk.calls]
        assert len(levels) == calls
        assert all(levels.count(s) == (2 if interval[0] <= s <= interval[1] else 1) for s in levels)
    plain = price(run, Settings(sampler="ddim", steps=5), timed=False)
    full = price(run, Settings(sampler="ddim", steps=5, guidance=2.0), timed=False)
    assert full.macs_per_image == 2 * plain.macs_per_image
    row = tmp_path / "row.json"
    words = ["evaluate", str(tmp_path / "run"), "--sampler", "ddim", "--steps", "2", "--num", "12"]
    assert main([*words, "--guidance", "2", "--guidance-interval", "0.001,100", "--json", str(row)]) == 0
    found = json.loads(row.read_text())[0]
    assert (found["nfe"], found["guidance"]) == (4, "2 for sigma 0.001 to 100")
    words = ["sample", str(tmp_path / "run"), "--sampler", "ddim", "--steps", "5", "--num", "2", "--guidance", "2"]
    assert main([*words, "--guidance-interval", "0.1,10", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["nfe"] == 7
    assert "7 denoiser calls each" in capsys.readouterr().out


def test_compare_refuses_to_guide_before_anything_is_trained(recipe, tmp_path, capsys):
    """Also where the first recipe could be guided."""
    config = yaml.safe_load(recipe.read_text())
    config["data"]["init_args"]["labels"] = True
    config["model"]["network"]["num_classes"] = 10
    paths = []
    for name, dropout in (("guided", 0.1), ("always", 0.0)):
        config["model"]["label_dropout"] = dropout
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(config))
    for other, expected in ((recipe, "recipe knows no class labels"), (paths[1], "always is trained with a label")):
        words = ["compare", str(paths[0]), str(other), "--guidance", "2", "--out", str(tmp_path / "compare")]
        assert main(words) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "compare" / "runs").exists()


def test_labels_are_dropped_as_often_as_asked():
    data = Digits(labels=True, batch_size=512)
    label = data.labels("train")[:1600]
    first, same, other = (module_of().generator(4, 0, part) for part in (7, 7, 8))
    dropped = drop_labels(label, 0.25, first)
    assert (dropped == -1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dropped[dropped >= 0], label[dropped >= 0])
    assert torch.equal(dropped, drop_labels(label, 0.25, same))
    assert not torch.equal(dropped, drop_labels(label, 0.25, other))


def module_of(**options):
    from denoisezoo.archs import get_variant, list_denoisers
    from denoisezoo.diffusion.objectives.regression import Simple
    from denoisezoo.diffusion.preconditioning import V
    from denoisezoo.diffusion.processes.scalar import VP

    tiny = next(name for name in list_denoisers() if "tiny" in get_variant(name).tags)
    network = {"in_channels": 1, "out_channels": 1, "resolution": 16, "num_classes": 10}
    return DiffusionModule(tiny, VP(), V(), Simple(), network=network, seed=0, **options)


# Mistakes


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"factor": 3}, "factor 3 does not divide 16 pixels"),
        ({"task": "Inpainting", "kind": "file", "mask": "nowhere.png"}, "nowhere.png"),
        ({"task": "Edgez"}, "Edges"),
        ({"network": {"cond_channels": 0}}, "network.cond_channels 1"),
        ({"network": {"cond_channels": 2}}, "conditions of 2 channels"),
        ({"process": JOINT, "network": {"in_channels": 3}}, "in_channels to 2"),
        ({"process": JOINT | {"init_args": JOINT["init_args"] | {"cond_channels": 3}}, "network": {"in_channels": 4}},
         "process.cond_channels 1"),
        ({"process": {"class_path": "Joint", "init_args": {"x": "RectifiedFlow"}}}, "without any signal"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(conditional, tmp_path, options, word, capsys):
    assert main(["train", *conditional(**options)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert word in error[-1]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_condition_without_a_task_is_refused(arguments, capsys):
    assert main(["train", *arguments("--model.network.cond_channels", 1)]) == 2
    assert "Paired" in capsys.readouterr().err


DROPPED = (*LABELS, "--model.label_dropout", 0.1)
MISTAKES = {
    (): [
        (("--guidance", "2"), "no class labels"),
        (("--guidance-interval", "1,2"), "without --guidance"),
        (("--condition", "."), "no condition"),
        (("--draws", "0"), "--draws"),
    ],
    LABELS: [(("--guidance", "2"), "label_dropout")],
    DROPPED: [
        (("--guidance", "nan"), "finite"),
        (("--guidance", "2", "--guidance-interval", "3,2"), "empty"),
        (("--guidance", "2", "--guidance-interval", "3"), "pair of numbers"),
    ],
}


@pytest.mark.parametrize("trained", MISTAKES)
def test_mistakes_in_sampling(arguments, tmp_path, capsys, trained):
    train(arguments("--trainer.max_steps", 1, *trained))
    for words, expected in MISTAKES[trained]:
        assert main(["sample", str(tmp_path / "run"), "--steps", "2", "--num", "2", *words]) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "run" / "samples").exists()


def test_labels_that_are_not_there_cannot_be_dropped(arguments):
    with pytest.raises(UserError, match="no classes"):
        train(arguments("--model.label_dropout", 0.1))
    with pytest.raises(UserError, match=r"label_dropout is 1\.0"):
        train(arguments(*LABELS, "--model.label_dropout", 1))
