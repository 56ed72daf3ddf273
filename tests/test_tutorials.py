"""Tutorials run from the first cell to the last."""

import runpy
import tempfile
from pathlib import Path

import pytest

import denoisezoo

TUTORIALS = sorted((Path(denoisezoo.__file__).parents[1] / "docs" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    values = runpy.run_path(str(path))
    assert values["samples"].images.isfinite().all()
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("tmp")] == []  # nothing is left
