"""train, sample, evaluate and compare as their user types them."""

import json

import pytest
import yaml

from denoisezoo.cli import main
from denoisezoo.report import load_comparison


@pytest.fixture
def run_folder(trained):
    """A run of four steps."""
    return trained()


def test_sample_writes_images_a_grid_and_a_note(run_folder, tmp_path, capsys):
    out = tmp_path / "images"
    words = [
        "sample",
        str(run_folder),
        "--sampler",
        "heun",
        "--steps",
        "3",
        "--num",
        "5",
        "--seed",
        "7",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    assert "5 denoiser calls each" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        *(f"{i:06d}.png" for i in range(7, 12)),
        "grid.png",
        "samples.json",
    ]
    note = json.loads((out / "samples.json").read_text())
    assert (note["nfe"], note["seeds"], note["weights"]) == (5, [7, 11], "ema")


def test_an_image_depends_on_its_seed_alone(run_folder, tmp_path):
    for name, more in (("a", ["--num", "4", "--batch-size", "3"]), ("b", ["--num", "2", "--seed", "2"])):
        words = ["sample", str(run_folder), "--sampler", "ddpm", "--steps", "3", "--out", str(tmp_path / name), *more]
        assert main(words) == 0
    for i in (2, 3):
        assert (tmp_path / "a" / f"{i:06d}.png").read_bytes() == (tmp_path / "b" / f"{i:06d}.png").read_bytes()
    assert (tmp_path / "a" / "000000.png").read_bytes() != (tmp_path / "a" / "000001.png").read_bytes()


def test_evaluate_writes_a_row_with_its_card(run_folder, tmp_path, capsys):
    path = tmp_path / "row.json"
    words = ["evaluate", str(run_folder), "--steps", "2", "--num", "40", "--json", str(path)]
    assert main(words) == 0
    row = json.loads(path.read_text())[0]
    assert row["fd_pixels"] > 0
    assert row["fd_pixels_over_halves"] == pytest.approx(row["fd_pixels"] / row["fd_pixels_halves"])
    card = {"dataset": "digits", "num_generated": 40, "num_reference": 1797, "weights": "ema", "nfe": 3, "steps": 2}
    card |= {"seeds": "0-39", "images_seen": 128, "train_steps": 4, "training_seed": 0, "features": "pixels"}
    assert card.items() <= row.items()
    assert row["macs_per_image"] % 3 == 0
    assert row["train_macs"] > 0
    assert (run_folder / "evaluation" / "neighbours.png").is_file()
    assert "fd_pixels" in capsys.readouterr().out


def test_profile_takes_a_run(run_folder, tmp_path):
    path = tmp_path / "p.json"
    words = ["profile", str(run_folder), "--counts-only", "--sampler", "ddim", "--steps", "2", "--json", str(path)]
    assert main(words) == 0
    assert json.loads(path.read_text())[0]["nfe"] == 2


def test_samples_of_a_plan_go_into_a_folder_of_their_own(run_folder, tmp_path):
    """Two calls that differ in how their images are made, and neither mixes with the other or is refused."""
    plan = tmp_path / "plan_exact_0.5.json"
    plan.write_text(json.dumps({"efforts": [1.0], "edges": []}))
    words = ["sample", str(run_folder), "--sampler", "ddim:eta=0.5", "--steps", "2", "--num", "2"]
    for more in ([], ["--plan", str(plan)], ["--plan", "uniform:effort=1"], ["--weights", "raw"]):
        assert main([*words, *more]) == 0
    names = {path.name for path in (run_folder / "samples").iterdir()}
    first = "ddim_eta=0.5_2"
    assert names >= {first, f"{first}_plan_exact_0.5", f"{first}_uniform_effort=1", f"{first}_raw"}
    for more in ([], ["--plan", str(plan)]):
        assert main(["evaluate", str(run_folder), "--sampler", "ddim", "--steps", "1", "--num", "9", *more]) == 0
    folders = {path.parent.name for path in run_folder.glob("evaluation*/result.json")}
    assert folders == {"evaluation", "evaluation_plan_exact_0.5"}


COMPARE = ("--budget", "images=64", "--sampler", "ddim", "--steps", "2", "--num", "40")


def test_compare_trains_evaluates_prices_and_reports(recipe, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("EDMLoss", "Simple"))
    out = tmp_path / "cmp"
    words = ["compare", str(recipe), str(other), "--seeds", "0,1", "--out", str(out), *COMPARE]
    assert main(words) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    found = load_comparison(out)
    assert [(r.name, r.seed) for r in found.runs] == [("recipe", 0), ("other", 0), ("recipe", 1), ("other", 1)]
    for record in found.runs:
        assert record.error is None
        assert record.card["images_seen"] == 64
        assert record.costs["nfe"] == 2 == len(record.trajectory)
        assert record.costs["macs_per_image"] == sum(row["macs"] for row in record.trajectory)
        assert record.metrics["fd_pixels"] > 0
        assert [step for step, _ in record.loss_curve]
        assert len(record.loss_by_noise) > 5
    assert len({r.metrics["fd_pixels"] for r in found.runs}) == 4
    assert len((out / "results.csv").read_text().splitlines()) == 5
    # The same command again repeats no training.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}
    assert main(words) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("last.ckpt")}
    assert [r.metrics for r in load_comparison(out).runs] == [r.metrics for r in found.runs]


def test_a_training_that_fails_does_not_end_the_others(recipe, tmp_path):
    """It diverges: the learning rate is absurd, and its images are not numbers."""
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("lr: 0.001", "lr: 1.0e+30, weight_decay: 10.0"))
    out = tmp_path / "cmp"
    assert main(["compare", str(other), str(recipe), "--out", str(out), *COMPARE]) == 0
    bad, good = load_comparison(out).runs
    assert bad.error
    assert good.error is None
    assert bad.error.split(";")[0][:20] in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], "--config"),
        (["train", "--config", "no_such_recipe"], "cifar10/ddpm"),
        (["sample", "nowhere"], "nowhere"),
        (["sample", "RUN", "--sampler", "hevn"], "heun"),
        (["sample", "RUN", "--steps", "-3"], "at least 1"),
        (["sample", "RUN", "--label", "3"], "label 3"),
        (["sample", "RUN", "--out", "FILE"], "is a file"),
        (["sample", "RUN", "--device", "cuda:77"], "cuda:77"),
        (["evaluate", "RUN", "--features", "inceptoin"], "inception"),
        (["evaluate", "RUN", "--split", "tst"], "test"),
        (["compare", "digits/nothing"], "digits/"),
        (["compare", "digitz/*"], "digits/"),
        (["compare", "RECIPE", "--budget", "image=3"], "images"),
        (["compare", "RECIPE", "--budget", "images=-3"], "positive"),
        (["compare", "RECIPE", "--seeds", "0,0"], "different"),
        (["compare", "RECIPE", "--features", "inceptoin"], "inception"),
        (["compare", "RECIPE", "photos64/uniform"], "pixels16"),
        (["compare", "RECIPE", "--out", "FILE"], "is a file"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(words, expected, run_folder, recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = {"RUN": str(run_folder), "RECIPE": str(recipe), "FILE": str(tmp_path / "file")}
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main([places.get(word, word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_samples_by_a_plan(recipe, tmp_path, capsys):
    """Every run by the same one; a network that lacks its efforts is refused before anything is trained."""
    slim = yaml.safe_load(recipe.read_text())
    slim["model"] |= {"denoiser": "slim_tiny", "effort": "sandwich"}
    path, plan = tmp_path / "slim.yaml", tmp_path / "plan.json"
    path.write_text(yaml.safe_dump(slim))
    plan.write_text('{"efforts": [0.5, 1.0], "edges": [0.0]}')
    out = tmp_path / "cmp"
    assert main(["compare", str(path), str(recipe), "--out", str(out), "--plan", str(plan), *COMPARE]) == 2
    assert "effort 0.5" in capsys.readouterr().err
    assert not list(out.rglob("*.ckpt"))
    assert main(["compare", str(path), "--out", str(out), "--plan", str(plan), *COMPARE]) == 0
    found = load_comparison(out)
    (record,) = found.runs
    assert json.loads(found.terms["plan"]) == json.loads(record.card["plan"]) == json.loads(plan.read_text())
    assert [call["effort"] for call in record.trajectory] == [0.5, 1.0]
    noisy, clean = (call["macs"] for call in record.trajectory)
    assert noisy < clean / 2
    assert record.costs["macs_per_image"] == noisy + clean
