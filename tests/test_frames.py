"""How far a call goes through the package: few frames of ours between a command and what it is for."""

import inspect
import sys
import traceback
from pathlib import Path

import denoisezoo
from denoisezoo.cli import main
from denoisezoo.diffusion import Simple

PACKAGE = Path(denoisezoo.__file__).parent


def test_from_the_command_to_the_loss(tmp_path, recipe, monkeypatch):
    """Those of Lightning and torch between them are not counted."""
    seen = []
    loss = Simple.weight

    def weight(self, *args):
        frames = traceback.extract_stack(sys._getframe())
        seen.append(
            [f"{Path(f.filename).relative_to(PACKAGE)}:{f.name}" for f in frames if f.filename.startswith(str(PACKAGE))]
        )
        return loss(self, *args)

    monkeypatch.setattr(Simple, "weight", weight)
    words = [
        "--trainer.max_steps",
        "1",
        "--model.objective",
        "Simple",
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    assert main(["train", "--config", str(recipe), *words]) == 0
    for frames in seen:
        assert frames[0] == "cli.py:main"
        assert frames[-1].endswith("regression.py:__call__")
    assert min(map(len, seen)) <= 7, min(seen, key=len)


def test_the_files_that_sampling_enters(trained, tmp_path, capsys):
    """Of the package, once all is imported: a plain run, of one class in each of the rooms that it passes through."""
    words = ["sample", str(trained()), "--num", "2", "--steps", "2"]
    assert main([*words, "--out", str(tmp_path / "first")]) == 0
    entered = set()

    def enter(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_NEWLOCALS and code.co_filename.startswith(str(PACKAGE)):
            entered.add(str(Path(code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(enter)
    try:
        assert main([*words, "--out", str(tmp_path / "second")]) == 0
    finally:
        sys.setprofile(None)
    assert "diffusion/samplers/sampler.py" in entered
    assert len(entered) <= 60, "\n".join(sorted(entered))
