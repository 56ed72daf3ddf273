"""W&B: an offline run is read back from its files; steps never go back; nothing that W&B does ends training."""

import json
import shutil
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from denoisezoo.archs import get_variant
from denoisezoo.runs.run import load_run
from denoisezoo.train import callbacks, tracking
from denoisezoo.train import wandb_panels as dashboard
from denoisezoo.train.fit import train
from denoisezoo.train.log import read_log
from denoisezoo.train.noise_bins import bin_names
from denoisezoo.train.tracking import IDENTITY, MARK, UNSENT_IDENTITY, Tracker, identity_of, keep
from tests.train.wandb_file import offline_runs

wandb = pytest.importorskip("wandb")

WORDS = [
    *("--wandb", "tests", "--samples.every_n_steps", 2, "--samples.num", 2, "--samples.steps", 3),
    *("--trainer.limit_val_batches", 1, "--trainer.val_check_interval", 2),
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """Nothing of the machine's own W&B is used."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()  # a session keeps the key that it found first


def test_an_offline_run_holds_everything(trained, tmp_path, tiny):
    trained(*WORDS)
    (run,) = offline_runs(tmp_path / "run")
    logged = {key: value for row in run.history for key, value in row.items()}
    numbers = ["train/loss", "val/loss", "images_per_s", "flop_per_s", "share_of_peak", "grad_norm", "guard/skipped"]
    for key in (*numbers, "images_seen", "trainer/global_step"):
        assert isinstance(logged[key], int | float), key
    assert sum(key.startswith("grad_norm/") for key in logged) > 3
    assert sum(key.startswith("loss_by_noise/") for key in logged) > 4
    for key in ("costs", "trajectory/cost", "noise/table"):
        assert logged[key]["_type"] == "table-file", key
        assert logged[key]["path"] in run.files
    for key in ("trajectory/cost_plot", "trajectory/plan_plot", "noise/heat_map"):
        assert logged[key]["_type"] == "plotly-file", key
        assert logged[key]["path"] in run.files
    for key in ("samples/ema", "samples/raw"):
        grids = [row[key] for row in run.history if key in row]
        assert len(grids) == 2  # over time, from the same noise
        assert all(name in run.files for grid in grids for name in grid["filenames"])
    assert run.config["model"]["denoiser"] == tiny
    assert run.config["data"]["init_args"]["batch_size"] == 32
    assert run.config["family"] == get_variant(tiny).family.name
    assert run.config["code"]["denoisezoo"]
    assert run.config["environment"]["versions"]["torch"]
    assert run.metrics["*"] == "trainer/global_step"
    ((name, metadata),) = [(name, data) for name, kind, data in run.artifacts if kind == "result-card"]
    assert name.startswith("training-")
    assert json.loads(metadata)["images_seen"] == 128
    assert run.summary["macs_per_image"] > 0


def table(folder, run, key):
    """Rows of a table, as dictionaries."""
    found = next(row[key] for row in run.history if key in row)
    (path,) = folder.glob(f"wandb/offline-run-*/files/{found['path']}")
    content = json.loads(path.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def test_its_tables_hold_the_right_numbers(trained, tmp_path):
    trained(*WORDS)
    (run,) = offline_runs(tmp_path / "run")
    calls = table(tmp_path / "run", run, "trajectory/cost")
    assert [call["call"] for call in calls] == [0, 1, 2]
    assert sum(call["macs"] for call in calls) == run.summary["macs_per_image"]
    assert calls[0]["sigma"] > calls[1]["sigma"] > calls[2]["sigma"]
    (costs,) = table(tmp_path / "run", run, "costs")
    backbone = load_run(tmp_path / "run").denoiser.backbone
    assert costs["params"] == sum(parameter.numel() for parameter in backbone.parameters())
    assert costs["flops"] == 2 * costs["macs"] == 2 * calls[0]["macs"]


def test_steps_never_go_back_over_three_resumptions(arguments, tmp_path, monkeypatch):
    """Each part but the last is lost behind its checkpoint, as after a kill: the next one repeats two steps."""
    for steps in (4, 6, 8, 10):
        train(arguments(*WORDS, "--trainer.max_steps", steps))
        if steps < 10:
            for path in (tmp_path / "run" / "checkpoints").glob(f"*{steps:08d}.ckpt*"):
                path.unlink()
    runs = offline_runs(tmp_path / "run")
    assert len(runs) == 4
    assert len({run.identity for run in runs}) == 1
    for key in ("trainer/global_step", "_step"):
        steps = [row[key] for run in runs for row in run.history if key in row]
        assert steps == sorted(steps)
        assert steps[-1] == 9
    losses = [row["trainer/global_step"] for run in runs for row in run.history if "train/loss" in row]
    assert sorted(set(losses)) == list(range(10))
    assert int((tmp_path / "run" / "wandb" / MARK).read_text()) == 9


def test_the_identity_is_random_and_stays_with_the_folder(tmp_path):
    first = identity_of(tmp_path / "run")
    assert (tmp_path / "run" / "wandb" / IDENTITY).read_text() == first
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert identity_of(tmp_path / "moved") == first
    assert identity_of(tmp_path / "run") != first  # another run at the place of the first
    (tmp_path / "moved" / "wandb" / IDENTITY).write_text("../")
    assert identity_of(tmp_path / "moved") != first


def test_a_mark_is_whole_or_the_one_before(tmp_path, monkeypatch):
    tracker = Tracker(tmp_path, "tests")
    keep(tracker.mark, "41")

    def killed(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", killed)
    keep(tracker.mark, "42")
    assert Tracker(tmp_path, "tests").last_step == 41
    assert sorted(path.name for path in (tmp_path / "wandb").iterdir()) == [IDENTITY, MARK]


@pytest.mark.parametrize("logged", [3, 200, 201, 5000])
def test_a_long_run_s_heat_map_is_thinned_and_its_table_never_cut(tmp_path, monkeypatch, logged):
    row = {dashboard.PREFIX + name: 0.5 for name in bin_names()}
    monkeypatch.setattr(dashboard, "read_log", lambda folder: {10 * i: row for i in range(logged)} | {7: {}})
    rows = dashboard.noise_rows(tmp_path)
    steps = list(dict.fromkeys(step for step, _, _ in rows))
    assert len(steps) == min(logged, dashboard.MOST_STEPS)
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 10 * (logged - 1))
    assert len(rows) == len(steps) * len(bin_names()) <= wandb.Table.MAX_ARTIFACT_ROWS
    assert len(rows) <= wandb.Table.MAX_ROWS


def test_an_unknown_peak_is_left_out(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "peak_flops", lambda trainer: 0.0)
    train(arguments())
    found = {key for row in read_log(tmp_path / "run").values() for key in row}
    assert "images_per_s" in found
    assert "share_of_peak" not in found


def test_training_goes_on_without_wandb(arguments, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert train(arguments(*WORDS)).steps == 4
    assert "warning: wandb is not installed" in capsys.readouterr().err


def test_training_goes_on_where_wandb_does_not_answer(arguments, tmp_path, monkeypatch, capsys):
    """With a key and no network, the run is offline."""
    init, modes = wandb.init, []

    def no_answer(**options):
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return init(**options)

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(wandb, "init", no_answer)
    assert train(arguments(*WORDS)).steps == 4
    assert modes == ["online", "offline"]
    assert "W&B cannot be used (online): timed out" in capsys.readouterr().err
    (run,) = offline_runs(tmp_path / "run")
    # The service refuses the identity that it has tried: "run ID ... is in use".
    assert run.identity == (tmp_path / "run" / "wandb" / UNSENT_IDENTITY).read_text()
    assert run.identity != (tmp_path / "run" / "wandb" / IDENTITY).read_text()


def test_a_server_that_cannot_be_reached_costs_nothing_but_the_sending(arguments, tmp_path, monkeypatch, capsys):
    """W&B's own service, against a port that nobody listens on; two parts of a run are one run of W&B."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "INIT_SECONDS", 1)
    for steps in (2, 4):
        assert train(arguments(*WORDS, "--trainer.max_steps", steps)).steps == steps
        assert "W&B cannot be used (online)" in capsys.readouterr().err
    runs = offline_runs(tmp_path / "run")
    assert [sum("train/loss" in row for row in run.history) for run in runs] == [2, 2]
    assert len({run.identity for run in runs}) == 1


KEY = "0123456789" * 4
ASK = """
import json, os, sys
from denoisezoo.train.tracking import has_key
import wandb
for environment in json.loads(sys.argv[1]):  # in a process of its own: W&B reads its environment once
    if not (child := os.fork()):
        os.environ.update(environment)
        print(has_key(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_key_is_found_where_wandb_looks_for_it(tmp_path):
    host = urlsplit(wandb.Settings.model_fields["base_url"].default).netloc  # that `wandb login` writes
    for name, machine in {"usual": host, "own": "own.example", "elsewhere": "elsewhere.example"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
        (tmp_path / name / ".netrc").chmod(0o600)
    usual, own, elsewhere = ({"HOME": str(tmp_path / name)} for name in ("usual", "own", "elsewhere"))
    server = {"WANDB_BASE_URL": "https://own.example"}
    expected = [
        ({}, False),
        ({"WANDB_API_KEY": KEY}, True),
        ({"WANDB_API_KEY": "too short"}, False),
        (usual, True),
        ({"NETRC": str(tmp_path / "usual" / ".netrc")}, True),
        (usual | server, False),
        (own | server, True),
        (elsewhere, False),
        ({"HOME": "/nonexistent"}, False),
    ]
    words = [sys.executable, "-c", ASK, json.dumps([environment for environment, _ in expected])]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(found) for _, found in expected]
    assert result.stderr.count("warning: W&B has no key that it can use") == 1


@pytest.mark.parametrize("name", ["log", "log_artifact", "finish"])
def test_training_goes_on_when_wandb_fails(arguments, monkeypatch, capsys, name):
    from wandb.sdk.wandb_run import Run

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    function = getattr(Run, name)
    monkeypatch.setattr(Run, name, fails)
    assert train(arguments(*WORDS)).steps == 4
    assert "W&B: " in capsys.readouterr().err
    monkeypatch.setattr(Run, name, function)
    wandb.finish()


def test_training_does_not_wait_for_a_slow_wandb(arguments, monkeypatch, capsys):
    import threading

    from wandb.sdk.wandb_run import Run

    finish, released = Run.finish, threading.Event()

    def slow(self, *args, **kwargs):
        released.wait(60)
        return finish(self, *args, **kwargs)

    monkeypatch.setattr(Run, "finish", slow)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.05)
    assert train(arguments(*WORDS)).steps == 4
    assert "wandb sync" in capsys.readouterr().err
    released.set()
    # Not a second `finish` beside the one that is under way: the two can wait for each other for ever.
    for thread in threading.enumerate():
        if thread.name == tracking.FINISHING:
            thread.join(60)
            assert not thread.is_alive()


def test_two_trainings_in_one_process_are_two_runs(arguments, tmp_path):
    for folder in ("a", "b"):
        train(arguments(*WORDS, folder=folder))
    assert len({run.identity for folder in ("a", "b") for run in offline_runs(tmp_path / folder)}) == 2


def test_ctrl_c_still_works_beside_wandb(arguments):
    """W&B must not keep the signal."""
    before = signal.getsignal(signal.SIGINT)
    train(arguments(*WORDS))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_comparison_is_a_run_with_its_pareto_table_and_cards(recipe, tmp_path, tiny):
    from denoisezoo.cli import main

    out = tmp_path / "cmp"
    words = ["--budget", "images=64", "--sampler", "ddim", "--steps", "2", "--num", "40", "--wandb", "tests"]
    assert main(["compare", str(recipe), "--seeds", "0,1", "--out", str(out), *words]) == 0
    (run,) = offline_runs(out)
    rows = table(out, run, "pareto/table")
    assert [row["seed"] for row in rows] == [0, 1]
    assert {row["family"] for row in rows} == {get_variant(tiny).family.name}
    assert all(row["macs_per_image"] > 0 and row["quality"] > 0 for row in rows)
    assert any("pareto/scatter" in row for row in run.history)
    cards = {name: json.loads(data) for name, kind, data in run.artifacts if kind == "result-card"}
    assert sorted(cards) == ["recipe-seed0", "recipe-seed1"]
    assert cards["recipe-seed1"]["training_seed"] == 1
    assert cards["recipe-seed1"]["fd_pixels"] == rows[1]["quality"]
    for seed in (0, 1):
        assert len(offline_runs(out / "runs" / "recipe" / f"seed_{seed}")) == 1
