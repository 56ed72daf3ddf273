"""The W&B workspace: a section per question, with panels of what trainings send."""

import json

import pytest

from denoisezoo.cli import main
from denoisezoo.commands.dashboard import BEST, COST, LEARNING, NOISE, make_workspace

SENT = {
    *("train/loss", "val/loss", "grad_norm", "grad_norm/.*", "loss_by_noise/.*", "guard/skipped"),
    *("guard/skipped_by_noise/.*", "images_per_s", "share_of_peak", "macs_per_image", "trainer/global_step"),
    *("samples/ema", "samples/raw", "noise/heat_map", "costs", "trajectory/cost", "trajectory/cost_plot"),
    *("trajectory/plan_plot", "pareto/table", "pareto/scatter"),
}
"""What `tests/train/test_tracking.py` finds in offline runs."""


def test_every_question_has_panels_of_what_is_sent(capsys):
    pytest.importorskip("wandb_workspaces")
    assert main(["dashboard", "zoo", "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [BEST, LEARNING, NOISE, COST]
    assert all(panels for panels in found.values())
    shown = set()
    for panel in (panel for panels in found.values() for panel in panels):
        for key in ("x", "y", "metric_regex", "media_keys", "metrics", "table_name"):
            value = panel.get(key, [])
            shown |= {value} if isinstance(value, str) else set(value)
    assert shown == SENT


def test_runs_are_grouped_by_family():
    """By the key of the configuration that every training sends, in what W&B's server is sent."""
    pytest.importorskip("wandb_workspaces")
    spec = make_workspace("me", "zoo", "view")._to_model().spec
    (grouped,) = spec.section.run_sets[0].grouping
    assert (grouped.section, grouped.name.partition(".")[0]) == ("config", "family")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch, capsys):
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert main(["dashboard", "zoo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "denoisezoo[dashboard]" in line


def test_what_wandb_refuses_is_one_line(monkeypatch, capsys):
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")

    def refused(self):
        raise ValueError("no key\nconfigure one")

    monkeypatch.setattr(workspaces.Workspace, "save", refused)
    assert main(["dashboard", "zoo", "--entity", "me"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: W&B does not take the workspace of zoo: no key; see `wandb login`")
    assert main(["dashboard", "me/zoo"]) == 2
