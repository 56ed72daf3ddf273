"""`denoisezoo search` as its user types it, and plans wherever a command samples."""

import csv
import json
import shlex
import time

import pytest

from denoisezoo.cli import main
from denoisezoo.plans import load_plan
from tests.train import faults

NETWORK = ("--model.network.resolution", "16", "--model.network.in_channels", "1", "--model.network.out_channels", "1")
PLAIN = ("--model.network.num_classes", "0", "--model.network.cond_channels", "0", "--model.network.augment_dim", "0")
TERMS = ("--sampler", "ddim", "--steps", "6", "--num", "40", "--batch-size", "40", "--images", "16")


def words_of(name):
    return ("--model.denoiser", name, "--model.effort", "sandwich", *NETWORK, *PLAIN)


@pytest.fixture
def run(trained):
    return str(trained(*words_of("slim_tiny")))


def test_exact_search_writes_plans_tables_and_a_page(run, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    assert main(["search", run, "--budget", "0.5,0.9", *TERMS, "--json", str(rows)]) == 0
    out = tmp_path / "run" / "search"
    text = capsys.readouterr().out
    assert "of training's" in text
    assert "the front under the loss table" in text
    plan = load_plan(out / "plan_exact_0.5.json")
    assert set(plan.efforts) <= {0.5, 1.0}
    found = {row["plan"]: row for row in json.loads(rows.read_text())}
    assert found["exact 0.5"]["cost_share"] <= 0.5 < found["effort 1"]["cost_share"] == 1
    assert found["effort 1"]["excess"] == 0
    assert found["exact 0.5"]["macs_per_image"] == price(run, out / "plan_exact_0.5.json", tmp_path)
    with open(out / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6 * 2
    # 16 images at six levels, by both networks, as the command says it spent
    assert found["effort 1"]["search_macs"] == 16 * (
        found["effort 1"]["macs_per_image"] + found["effort 0.5"]["macs_per_image"]
    )
    page = (out / "search.html").read_text()
    assert "multiply-adds, exact 0.5 takes 0." in page
    assert "Effort by noise level" in page
    assert "one effort throughout" in page


def price(run, plan, tmp_path, sampler="ddim"):
    path = tmp_path / "price.json"
    words = ["profile", run, "--counts-only", "--sampler", sampler, "--steps", "6", "--plan", str(plan)]
    assert main([*words, "--json", str(path)]) == 0
    return json.loads(path.read_text())[0]["macs_per_image"]


def test_the_same_search_works_on_solver_steps(trained, tmp_path):
    run = str(trained(*words_of("missing_u_second_order_tiny"), "--model.sandwich.between", "0"))
    rows = tmp_path / "rows.json"
    assert main(["search", run, "--budget", "0.8", *TERMS, "--json", str(rows)]) == 0
    assert {"effort 1", "effort 2", "exact 0.8"} <= {row["plan"] for row in json.loads(rows.read_text())}


def test_plans_are_taken_wherever_one_samples(run, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"efforts": [0.5, 1.0], "edges": [0.0]}')
    out = tmp_path / "images"
    assert main(["sample", run, "--plan", str(plan), "--num", "2", "--steps", "3", "--out", str(out)]) == 0
    assert json.loads((out / "samples.json").read_text())["plan"] == {"efforts": [0.5, 1.0], "edges": [0.0]}
    row = tmp_path / "row.json"
    words = ["evaluate", run, "--plan", "uniform:effort=0.5", "--steps", "2", "--num", "40", "--json", str(row)]
    assert main(words) == 0
    found = json.loads(row.read_text())[0]
    assert json.loads(found["plan"]) == {"efforts": [0.5], "edges": []}
    full = tmp_path / "full.json"
    assert main(["evaluate", run, "--steps", "2", "--num", "40", "--json", str(full)]) == 0
    assert found["macs_per_image"] < 0.5 * json.loads(full.read_text())[0]["macs_per_image"]


def test_latency_as_the_cost(run, tmp_path):
    rows = tmp_path / "rows.json"
    assert main(["search", run, "--budget", "1", "--cost", "latency", *TERMS, "--json", str(rows)]) == 0
    found = {row["plan"]: row["cost_share"] for row in json.loads(rows.read_text())}
    assert found["effort 1"] == pytest.approx(1)  # a narrow network need not be faster, where the machine is busy
    assert found["exact 1"] <= 1 + 1e-9
    assert found["effort 0.5"] > 0


TRIALS = 6
EVOLUTION = ("--method", "nsga2", "--trials", str(TRIALS), "--population", "3", "--budget", "0.9")


def test_evolution_goes_on_and_says_what_all_of_it_cost(run, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    words = ["search", run, *EVOLUTION, *TERMS, "--grids", "process,log_snr", "--json", str(rows)]
    assert main(words) == 0
    found = [row for row in json.loads(rows.read_text()) if row["plan"] == "nsga2"]
    assert found
    assert all(row["quality"] > 0 for row in found)
    for row in found:  # a plan costs what a walk on its own time grid costs
        plan = tmp_path / "plan.json"
        plan.write_text(row["json"])
        assert row["macs_per_image"] == price(run, plan, tmp_path, row["sampler"])
    assert {row["sampler"] for row in found} <= {"ddim", "ddim:time_grid=log_snr"}
    spent = json.loads(rows.read_text())[0]["search_macs"]
    assert spent > TRIALS * 40 * min(row["macs_per_image"] for row in found)  # trials of 40 images, and the table
    assert main(words) == 0  # nothing is left to do, and what was done has its price still
    assert json.loads(rows.read_text())[0]["search_macs"] == spent
    capsys.readouterr()
    for other in (["--steps", "5"], ["--segments", "7"], ["--levels", "3"], ["--dtype", "bfloat16"]):
        assert main([*words, *other]) == 2
        assert "about another search" in capsys.readouterr().err


def test_evolution_is_nowhere_worse_than_the_exact_plans_by_the_same_measure(run, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    budgets = ["0.45", "0.6", "0.75", "0.9"]
    words = ["search", run, *EVOLUTION, "--trials", "1", "--budget", ",".join(budgets), *TERMS, "--evaluate"]
    assert main([*words, "--switch-penalty", "0", "--json", str(rows)]) == 0
    found = {row["plan"]: row for row in json.loads(rows.read_text())}
    assert len({found[f"exact {budget}"]["json"] for budget in budgets}) > 1
    for budget in budgets:
        assert found[f"nsga2 {budget}"]["quality"] <= found[f"exact {budget}"]["quality"]
        assert found[f"nsga2 {budget}"]["cost_share"] <= float(budget)


def test_evaluating_plans_beside_is_no_part_of_the_price(run, tmp_path):
    rows = tmp_path / "rows.json"

    def price_of(*words):
        assert (
            main(["search", run, *EVOLUTION, *TERMS, "--out", str(tmp_path / "out"), *words, "--json", str(rows)]) == 0
        )
        return json.loads(rows.read_text())[0]["search_macs"]

    assert price_of() == price_of("--evaluate")


def test_a_search_by_latency_is_joined_by_the_same_command(run, tmp_path, monkeypatch):
    """Each measures other latencies, from which other exact plans would follow; the first's hold."""
    import numpy as np

    from denoisezoo.search.task import SearchTask

    words = ["search", run, *EVOLUTION, *TERMS, "--cost", "latency", "--storage", str(tmp_path / "study.log")]
    shares = []
    for latencies in ([[1.0, 2.0]], [[1.0, 50.0]]):
        monkeypatch.setattr(SearchTask, "latencies", np.array(latencies))
        rows = tmp_path / "rows.json"
        assert main([*words, "--json", str(rows)]) == 0
        shares.append([row["cost_share"] for row in json.loads(rows.read_text())])
    assert shares[0] == shares[1]
    assert 0.5 in shares[0]


def test_the_command_that_samples_by_a_plan_keeps_its_time_grid(run, tmp_path, capsys):
    words = ["search", run, *EVOLUTION, *TERMS, "--grids", "log_snr", "--budget", "0.9"]
    assert main(words) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("denoisezoo sample ")]
    samplers = {line.split(" --plan ")[1].split("plan_")[1].split(".json")[0]: line for line in told}
    assert samplers["exact_0.9"].endswith("--sampler ddim --steps 6")
    assert samplers["nsga2_0.9"].endswith("--sampler ddim:time_grid=log_snr --steps 6")
    command = shlex.split(samplers["nsga2_0.9"])[1:]
    assert main([*command, "--num", "2", "--out", str(tmp_path / "images")]) == 0


def test_the_smallest_budget_as_told_is_taken(run, capsys):
    assert main(["search", run, "--budget", "0.01", *TERMS]) == 2
    told = capsys.readouterr().err.strip().rsplit(" ", 1)[1]
    assert main(["search", run, "--budget", told, *TERMS]) == 0


def test_a_killed_search_is_joined_by_the_same_command(run, tmp_path):
    study = tmp_path / "study.log"
    words = [run, *EVOLUTION, "--trials", "12", *TERMS, "--storage", str(study)]
    process, begin = faults.start(words, tmp_path / "log", command="search"), time.monotonic()
    while not study.exists() or study.read_text().count('"state":1') < 2:
        if not process.is_alive() or time.monotonic() - begin > 120:
            break
        time.sleep(0.02)
    process.kill()
    assert faults.wait([process]) == [-9], (tmp_path / "log").read_text()
    assert 2 <= study.read_text().count('"state":1') < 12
    assert main(["search", *words]) == 0
    text = study.read_text()
    assert text.count('"state":1') >= 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "0.1"], "below the smallest network's"),
        (["--budget", "1.5"], "should be above 0, up to 1"),
        (["--method", "annealing"], "did you mean|exact"),
        (["--plan", "uniform:effort=1"], "leave it out"),
        (["--method", "nsga2", "--grids", "emd"], "edm"),
        (["--grids", "edm"], "--grids is for evolution.*add --method nsga2"),
        (["--trials", "9"], "--trials is for evolution"),
        (["--storage", "s.log"], "--storage is for evolution"),
        (["--genome", "levels"], "--genome is for evolution"),
        (["--sampler", "rk45"], "rk45 chooses its steps"),
    ],
)
def test_searches_that_cannot_be(run, words, told, capsys):
    assert main(["search", run, *TERMS, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert __import__("re").search(told, error)


def test_a_network_without_a_choice(trained, capsys):
    assert main(["search", str(trained()), *TERMS]) == 2
    assert "one effort" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"efforts": [0.5, 1.0], "edges": []}', "lacks an edge"),
        ('{"efforts": [1.0], "edges": [0.0, 1.0]}', "does not cover all noise levels"),
        ('{"efforts": [0.3], "edges": []}', "uses effort 0.3, this one offers 0.5, 1"),
        ("{", "no JSON"),
    ],
)
def test_plans_that_cannot_be_used(run, content, told, tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_text(content)
    capsys.readouterr()
    for command in ("sample", "evaluate", "profile"):
        assert (
            main(
                [
                    command,
                    run,
                    "--plan",
                    str(path),
                    *(["--sampler", "ddim"] if command == "profile" else []),
                    "--steps",
                    "2",
                ]
            )
            == 2
        )
        error = capsys.readouterr().err.strip()
        assert told in error
        assert error.count("\n") == 0


def test_a_damaged_study(run, tmp_path, capsys):
    study = tmp_path / "study.log"
    study.write_text("garbage\n")
    assert main(["search", run, *EVOLUTION, *TERMS, "--storage", str(study)]) == 2
    assert "study" in capsys.readouterr().err
