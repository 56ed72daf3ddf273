"""Checkpoints of training programs: tensors are read, other objects kept as data or refused, and nothing is run."""

import argparse
import io
import os
import pathlib
import pickle
import zipfile

import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.interop.pickle_reader import Thing
from denoisezoo.interop.torch_zip import read_checkpoint

CANARY = "canary"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture(autouse=True)
def nest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def repacked(data, change=None, compression=zipfile.ZIP_STORED):
    """A zip of torch with a part changed: name -> bytes of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content if change is None else change(name, content))
    return buffer.getvalue()


def test_tensors_are_read_beside_objects_that_stay_data():
    x = torch.arange(12.0).reshape(3, 4)
    value = {
        "state": {"whole": x, "part": x[1:, ::2], "half": x.half(), "empty": torch.zeros(0, 3), "one": torch.tensor(7)},
        "parameter": torch.nn.Parameter(x.clone()),
        "args": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("runs")),
        "step": 3,
    }
    pathlib.Path("last.ckpt").write_bytes(saved(value))
    found = read_checkpoint(pathlib.Path("last.ckpt"))
    for name, tensor in value["state"].items():
        assert torch.equal(found["state"][name], tensor), name
    assert torch.equal(found["parameter"], x)
    assert isinstance(found["args"], Thing)
    assert found["args"].state["lr"] == 1e-4
    assert found["step"] == 3


REFUSED = {
    "a call": (saved({"args": Calls(os.mkdir, CANARY)}), "asks for posix.mkdir, which could run code"),
    "a call within an object": (
        saved({"args": argparse.Namespace(x=Calls(os.mkdir, CANARY))}),
        "asks for posix.mkdir, which could run code",
    ),
    "a class of another package": (saved({"args": io.BytesIO()}), "asks for _io.BytesIO, which could run code"),
    "numbers that are not there": (
        repacked(saved(torch.zeros(99)), lambda name, content: content[:-8] if "/data/" in name else content),
        "a storage of 99 numbers has 388 bytes",
    ),
    "compressed": (repacked(saved(torch.zeros(99)), compression=zipfile.ZIP_DEFLATED), "parts of it are compressed"),
    "another zip": (repacked(saved(torch.zeros(9)), None).replace(b"data.pkl", b"data.pkx"), "none that torch wrote"),
    "big-endian": (
        repacked(saved(torch.zeros(9)), lambda name, content: b"big" if name.endswith("byteorder") else content),
        "in big-endian order",
    ),
    "half a file": (saved(torch.zeros(999))[:-900], "is refused or damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_run_or_is_damaged_is_refused(case):
    data, message = REFUSED[case]
    pathlib.Path("last.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(pathlib.Path("last.ckpt"))
    assert "\n" not in str(caught.value)
    assert not os.path.exists(CANARY)


def test_the_canary_can_sing():
    torch.load(io.BytesIO(REFUSED["a call"][0]), weights_only=False)
    assert os.path.isdir(CANARY)


def test_objects_that_are_kept_are_not_called():
    """A name of a package that training programs use is no way to what it can reach."""
    call = b"\x80\x02cargparse\nNamespace\n(X\x06\x00\x00\x00canarytR}X\x01\x00\x00\x00x(X\x01\x00\x00\x00ytsb."
    with pytest.raises(TypeError):
        pickle.loads(call)  # the real one would be called with these arguments
    data = repacked(saved({}), lambda name, content: call if name.endswith("data.pkl") else content)
    pathlib.Path("last.ckpt").write_bytes(data)
    found = read_checkpoint(pathlib.Path("last.ckpt"))
    assert (found.kind, found.state) == ("argparse.Namespace", {"x": ("y",)})
