"""`export` from the command line and from Python: what stands where, what is refused, and that nothing is left over."""

import sys

import pytest

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.interop import WRITERS, Writer
from denoisezoo.interop.writer import Written


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A trained run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    trained()
    return tmp_path / "run"


class Note(Writer):
    """A format of somebody else's: one line of text."""

    suffix = ".note"
    parts = ("denoiser", "network")
    fails = False

    def write(self, subject, folder):
        written = []
        for effort in subject.efforts:
            file = folder / f"{subject.stem(effort)}.note"
            file.write_text(subject.name)
            written.append(Written(path=file.relative_to(folder), effort=effort))
        if self.fails:
            raise UserError("it does not fit", "take another")
        return written

    def usage(self, subject, written):
        return f"open({str(written[0].path)!r})"


@pytest.fixture
def note():
    """Its name, as long as it is registered."""
    WRITERS.add("note", Note)
    yield "note"
    del WRITERS._items["note"]


def test_the_default_place_and_the_card_of_a_run(run, note, capsys):
    assert main(["evaluate", "run", "--steps", "2", "--num", "40"]) == 0
    assert main(["export", "run", "--format", note, "--license", "cc-by-4.0", "--json", "rows.json"]) == 0
    shown = capsys.readouterr().out
    name = dz.load("run").run.name
    assert f"{name}_denoiser.note" in shown
    assert {path.name for path in (run / "note").iterdir()} == {"README.md", f"{name}_denoiser.note"}
    card = (run / "note" / "README.md").read_text()
    for line in ("license: cc-by-4.0", "| images_seen | 128 |", "| train_steps | 4 |", "| objective | EDMLoss |"):
        assert line in card
    assert "| fd_pixels | " in card
    assert "| dataset | digits |" in card
    assert "c_noise" in card


def test_it_replaces_its_own_card_and_no_other(run, note, capsys):
    for _ in range(2):
        assert main(["export", "run", "--format", note, "--out", "out"]) == 0
    (run.parent / "out" / "README.md").write_text("# My project\n")
    assert main(["export", "run", "--format", note, "--out", "out"]) == 2
    assert "README.md is no card of an earlier note export" in capsys.readouterr().err
    assert (run.parent / "out" / "README.md").read_text() == "# My project\n"


def test_one_file_stands_alone(run, note):
    done = dz.export("run", "new/a.note", format=note, part="network")
    assert [path.name for path in (run.parent / "new").iterdir()] == ["a.note"]
    assert [row["part"] for row in done.rows()] == ["network"]


def test_safetensors_in_a_folder_are_a_run(run):
    dz.export("run", "out")
    (file,) = (run.parent / "out").glob("*.safetensors")
    assert dz.load(file).run.facts == dz.load("run").run.facts
    assert f'dz.load("{file.name}")' in (run.parent / "out" / "README.md").read_text()


WRONG = {
    "a format": (["--format", "onxx"], "unknown format to write 'onxx'; did you mean onnx?"),
    "a part": (["--format", "pt2", "--part", "decoder"], "unknown --part 'decoder'; did you mean denoiser or network?"),
    "a part of what has none": (["--part", "network"], "format safetensors holds the whole denoiser; leave --part out"),
    "a plan of what has all": (["--plan", "uniform:effort=1"], "holds all efforts in one file; leave --plan out"),
    "an effort": (["--format", "pt2", "--plan", "uniform:effort=0.3"], "it uses effort 0.3, this one offers 1"),
    "a licence": (["--license", "a b"], "license is 'a b'; give an identifier"),
    "a suffix": (["--format", "pt2", "--out", "x.onnx"], "--out x.onnx does not end in .pt2; give a folder, or a name"),
    "a file": (["--format", "diffusers", "--out", "file"], "--out file is a file; give a folder"),
    "no folder": (["--format", "pt2", "--out", "file/x"], "cannot write file/x"),
    "no twin": (
        ["--format", "diffusers", "--out", "a/b"],
        "has no twin in diffusers: it is no network of DDPM's kind;",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_leaves_nothing(case, run, capsys):
    words, message = WRONG[case]
    (run.parent / "file").write_text("mine")
    before = sorted(run.parent.rglob("*"))
    assert main(["export", "run", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(run.parent.rglob("*")) == before
    assert (run.parent / "file").read_text() == "mine"


def test_what_fails_half_way_leaves_what_was_there(run, note, monkeypatch):
    dz.export("run", "out", format=note)
    before = {path: path.read_bytes() for path in (run.parent / "out").iterdir()}
    monkeypatch.setattr(Note, "fails", True)
    for out in ("out", "new/out"):
        with pytest.raises(UserError, match="it does not fit"):
            dz.export("run", out, format=note)
    assert {path: path.read_bytes() for path in (run.parent / "out").iterdir()} == before
    assert sorted(path.name for path in run.parent.iterdir() if path.is_dir()) == ["out", "run"]


def test_several_efforts_are_no_single_file(note, tmp_path):
    slim = dz.create_denoiser("slim_tiny", "edm")
    plan = dz.Plan((0.5, 1.0), (0.0,))
    with pytest.raises(UserError, match=r"2 files are to be written, and x\.note is one; give a folder"):
        dz.export(slim, tmp_path / "x.note", format=note, plan=plan)
    dz.export(slim, tmp_path / "out", format=note, plan=plan)
    assert "| -inf to 0 | 0.5 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_an_absent_package_names_the_extra(absent, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, absent, None)
    assert main(["export", "run", "--format", "onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: ONNX needs {absent}, which is not installed; pip install 'denoisezoo[interop]'"
    assert not (run / "onnx").exists()
