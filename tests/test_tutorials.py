"""Tutorials run from the first cell to the last."""

import runpy
import tempfile
from pathlib import Path

import pytest

import denoisezoo
from denoisezoo.archs.variants import _VARIANTS

TUTORIALS = sorted((Path(denoisezoo.__file__).parents[1] / "docs" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, tmp_path, monkeypatch):
    denoisezoo.list_denoisers()  # the zoo stays registered, what a page adds does not
    monkeypatch.setattr(_VARIANTS, "_items", dict(_VARIANTS._items))
    monkeypatch.setattr(_VARIANTS, "_origin", dict(_VARIANTS._origin))
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    values = runpy.run_path(str(path))
    assert values["samples"].images.isfinite().all()
    assert [*(tmp_path / "here").iterdir()] == []  # nothing is left
