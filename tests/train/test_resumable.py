"""A checkpoint of our shape that lacks a part, or holds another in its place, is one line and exit status 2."""

import copy

import pytest

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from denoisezoo.train.resumable import PARTS, check_resumable

MISSING = object()


@pytest.fixture
def half(trained, arguments, tmp_path, capsys):
    """Damages a part of a run's last checkpoint; the damaged one has a checksum that fits."""
    folder = trained()
    path = (folder / "checkpoints" / "last.ckpt").resolve()

    def damage(key, value):
        found = damaged(read_checkpoint(path), key, value)
        AtomicCheckpointIO().save_checkpoint(found, path)
        (folder / "run.json").unlink()
        return path

    return damage


def refused(words, capsys):
    """The one line of a mistake."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def damaged(found, key, value):
    """A copy with another value, or none, at a dotted key."""
    found = copy.deepcopy(found)
    *parents, last = key.split(".")
    inside = found
    for part in parents:
        inside = inside[int(part) if part.isdigit() else part]
    if value is MISSING:
        del inside[last]
    else:
        inside[last] = value
    return found


def test_a_part_that_is_missing_or_of_another_type(trained):
    path = (trained() / "checkpoints" / "last.ckpt").resolve()
    whole = read_checkpoint(path)
    check_resumable(whole, path)
    for key, kind in PARTS.items():
        for value in [value for value in (MISSING, "text", 7.5j, [], {}, None) if value != "text" or kind is not str]:
            with pytest.raises(UserError, match=rf"{path} .*{key}"):
                check_resumable(damaged(whole, key, value), path)


@pytest.mark.parametrize(
    "key", ["global_step", "optimizer_states", "pytorch-lightning_version", "averaging_state", "loops", "callbacks"]
)
def test_a_part_that_is_missing_is_one_line(half, arguments, capsys, key):
    path = half(key, MISSING)
    line = refused(["train", *arguments("--trainer.max_steps", 6)], capsys)
    assert path.name in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer_states", [3]),
        ("optimizer_states", [{}]),
        ("optimizer_states.0.param_groups", []),
        ("lr_schedulers", [3]),
        ("current_model_state", {"a": 1}),
        ("averaging_state", {"b": 2}),
        ("loops.fit_loop.state_dict", {"combined_loader": [{"position": "x"}]}),
        ("callbacks", {"Guard": {}}),
        ("callbacks.Guard", {"skipped": "x", "in_row": 0, "by_noise": {}}),
        ("callbacks.Checkpoints", {"best_loss": "x", "best_step": 0}),
        ("pytorch-lightning_version", "none"),
    ],
)
def test_a_part_of_the_right_type_that_does_not_fit(half, arguments, capsys, key, value):
    path = half(key, value)
    line = refused(["train", *arguments("--trainer.max_steps", 6)], capsys)
    assert path.name in line


@pytest.mark.parametrize("key", ["global_step", "state_dict", "current_model_state"])
@pytest.mark.parametrize("value", [MISSING, {1: 2}], ids=["missing", "wrong"])
def test_neither_can_it_be_sampled(half, capsys, key, value):
    path = half(key, value)
    assert path.name in refused(["export", str(path), "--weights", "raw"], capsys)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"3", b"\xff\xfe{}", b'{"finished": true}', b"[" * 9999])
def test_a_damaged_run_json_is_named(trained, arguments, capsys, content):
    path = trained() / "run.json"
    path.write_bytes(content)
    assert f"{path} is damaged; delete it" in refused(["train", *arguments()], capsys)
    assert path.name in refused(["export", str(path.parent)], capsys)


@pytest.mark.parametrize(
    ("key", "value"),
    [("accumulate_grad_batches", 2), ("gradient_clip_val", 0.5), ("precision", "bf16-mixed")],
)
def test_a_resumed_step_must_be_the_same_step(trained, arguments, capsys, key, value):
    trained()
    line = refused(["train", *arguments("--trainer.max_steps", 6, f"--trainer.{key}", value)], capsys)
    assert f"another trainer.{key}" in line
