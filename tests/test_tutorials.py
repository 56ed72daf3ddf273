"""Tutorials run from the first cell to the last, and pages show what each cell prints and draws."""

import base64
import importlib
import tempfile
from pathlib import Path

import pytest

import denoisezoo
from denoisezoo.archs.variants import _VARIANTS

DOCS = Path(denoisezoo.__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))


@pytest.fixture
def notebook(monkeypatch):
    """What makes notebooks and pages of scripts."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("notebook")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, notebook, tmp_path, monkeypatch):
    denoisezoo.list_denoisers()  # the zoo stays registered, what a page adds does not
    monkeypatch.setattr(_VARIANTS, "_items", dict(_VARIANTS._items))
    monkeypatch.setattr(_VARIANTS, "_origin", dict(_VARIANTS._origin))
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    values = {"__name__": "__main__"}
    cells = [cell for cell in notebook.execute(path, values).cells if cell.cell_type == "code"]
    assert values["samples"].images.isfinite().all()
    assert [*(tmp_path / "here").iterdir()] == []  # nothing is left
    for cell in cells:
        kinds = {kind for output in cell.outputs for kind in output.get("data", [output.output_type])}
        assert "stream" in kinds or "print(" not in cell.source
        assert "image/png" in kinds or cell.source.splitlines()[-1] != "samples"


SCRIPT = """# %% [markdown]
# # Title

# %%
import sys
from denoisezoo.tables import Table
print(6 * 7)
print("progress", file=sys.stderr)

# %%
one = 1
None

# %%
Table([{"a": one}])

# %%
class Picture:
    def _repr_png_(self):
        return b"PNG"
Picture()
"""


def test_pages_show_what_a_notebook_does(notebook, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    found = notebook.execute(path, {"__name__": "shown"})
    _, said, nothing, table, picture = (cell.get("outputs", []) for cell in found.cells)
    assert [output.text for output in said] == ["42\n"]
    assert nothing == []
    assert table[0].data["text/html"].startswith("<table")
    assert base64.b64decode(picture[0].data["image/png"]) == b"PNG"
    page, pictures = notebook.as_page(found, "script")
    assert pictures == {"script_1.png": b"PNG"}
    assert page.index("# Title") < page.index("print(6 * 7)") < page.index("```text\n42\n```") < page.index("<table")
    assert "(script_1.png)" in page
    assert "progress\n" not in page


def test_a_cell_that_fails_is_named(notebook, tmp_path):
    path = tmp_path / "script.py"
    path.write_text("# %%\na = 1\n\n# %%\na / 0\n")
    with pytest.raises(ZeroDivisionError) as error:
        notebook.execute(path, {})
    assert error.traceback[-1].frame.code.raw.co_filename == "script.py, cell 2"
