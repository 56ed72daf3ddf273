"""Files that would run code, or take all memory: each is refused in one line, and nothing of it runs.

A canary is a folder that a hostile file would make; that it can is tested first, by the loader it is made for.
"""

import contextlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from denoisezoo.cli import main
from denoisezoo.interop import pickle_reader
from tests.interop.written import Persistent, persistence, snapshot

CANARY = "canary"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds(dict):
    """Pickles as a dictionary, whose state is a call."""

    def __reduce__(self):
        return dict, (), {"x": Calls(os.mkdir, CANARY)}


def dumped(value, protocol=4):
    return pickle.dumps(value, protocol=protocol)


def legacy_storage(inner):
    """A pickle whose storage is the bytes of another one, as torch pickles storages."""
    return dumped({"ema": Calls(torch.storage._load_from_bytes, inner)})


def legacy_torch(value):
    """What torch.save wrote before it wrote zips."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def torch_zip(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zip_with(data_pkl):
    """A file of torch with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def protocol_0(function, argument):
    return f"c{function.__module__}\n{function.__name__}\n(S'{argument}'\ntR.".encode()


SINGING = {
    "a call": dumped(Calls(os.mkdir, CANARY)),
    "a call in protocol 0": protocol_0(os.mkdir, CANARY),
    "a call by INST": b"(S'canary'\niposix\nmkdir\n.",
    "a call by OBJ": b"(cposix\nmkdir\nS'canary'\no.",
    "a call within a snapshot": dumped({"ema": {"x": [Calls(os.mkdir, CANARY)]}}),
    "eval": dumped(Calls(eval, f"__import__('os').mkdir('{CANARY}')")),
    "exec": dumped(Calls(exec, f"import os; os.mkdir('{CANARY}')")),
    "getattr": dumped(Calls(getattr(pickle, "loads"), dumped(Calls(os.mkdir, CANARY)))),  # noqa: B009
    "a call as the state of a dictionary": dumped(Builds()),
    "a call in protocol 5, out of a frame": b"\x80\x05" + dumped(Calls(os.mkdir, CANARY), 2)[2:],
    "a storage that is a pickle": legacy_storage(dumped(Calls(os.mkdir, CANARY))),
    "a storage in torch's format with a call": legacy_storage(legacy_torch(Calls(os.mkdir, CANARY))),
}
"""Files that sing when pickle reads them."""
TORCH = {
    "a zip of torch": torch_zip(Calls(os.mkdir, CANARY)),
    "a zip of torch with another pickle": zip_with(dumped(Calls(os.mkdir, CANARY), protocol=2)),
    "torch's older format": legacy_torch(Calls(os.mkdir, CANARY)),
}
"""Files that sing when torch reads them without care."""


def huge_storage():
    """A storage that says it holds 10 GB."""
    whole = legacy_torch(torch.zeros(4)._typed_storage())
    return whole.replace(struct.pack("<q", 4), struct.pack("<q", 2_500_000_000))


class Nested:
    """A pickle that has a persistent id within."""

    def __new__(cls):
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, 4)
        pickler.persistent_id = lambda value: ("storage", "x", "0", "cpu", 10**10) if value == "id" else None
        pickler.dump({"ema": ["id"]})
        return buffer.getvalue()


def bomb(opcode):
    """Tuples of tuples, each twice the last: what hashes or prints them never ends."""
    return b"\x80\x04)" + b"2\x86" * 60 + opcode + b"."


SILENT = {
    "no pickle": b"this is text",
    "nothing": b"",
    "the beginning of one": dumped({"ema": {"x": list(range(99))}})[:40],
    "a persistent id": Nested(),
    "9 bytes that ask for gigabytes": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b".",
    "a storage of 10 GB": legacy_storage(huge_storage()),
    "a class by extension": b"\x80\x04\x82\x01.",
    "an object with keywords": b"\x80\x04cbuiltins\ndict\n)}\x92.",
    "keys without end": b"\x80\x04}" + bomb(b"N")[2:-1] + b"s.",
    "a name without end": b"\x80\x04" + bomb(b"2\x93")[2:],
    "a mark that is missing": b"\x80\x04e.",
    "another pickle": dumped([1, 2, 3]),
    "a tensor beyond its storage": None,
    "modules without end": None,
    "another version of the layout": None,
    "an object without a state": None,
}


def silent(case, monkeypatch):
    persistence(monkeypatch)
    if case == "a tensor beyond its storage":
        tensor = Calls(
            torch._utils._rebuild_tensor_v2, torch.zeros(4)._typed_storage(), 0, (10**5, 10**5), (0, 0), False, {}
        )
        return dumped({"ema": tensor})
    if case == "modules without end":
        whole = snapshot("edm_ddpmpp")
        net = whole["ema"].meta["state"]["_modules"]["model"]
        net.meta["state"]["_modules"]["again"] = net
        # Python cannot pickle an object within the arguments that make it; a doubling chain is as long to walk.
        net.meta["state"]["_modules"]["again"] = chain(40)
        return dumped(whole)
    if case == "another version of the layout":
        return dumped({"ema": Persistent("EDMPrecond", version=7)})
    if case == "an object without a state":
        meta = {"type": "class", "version": 6, "class_name": "EDMPrecond"}
        return dumped({"ema": Calls(Persistent("X").__reduce__()[0], meta)})
    return SILENT[case]


def chain(length):
    inner = Persistent("Linear", _parameters={}, _modules={})
    for _ in range(length):
        inner = Persistent("Linear", _parameters={}, _modules={"a": inner, "b": inner})
    return inner


@pytest.fixture(autouse=True)
def nest(tmp_path, monkeypatch):
    """Where the canary would sit."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(path, capsys, format="edm"):
    """The one line with which a file is refused by each command that would read it."""
    lines = []
    for words in (["sample", f"{format}:{path}"], ["import", f"{format}:{path}", "--out", "imported"]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        lines.append(line)
    assert not os.path.exists(CANARY)
    assert sorted(os.listdir()) == [path.name]  # nothing half-written
    return lines[0]


@pytest.mark.parametrize("case", SINGING)
def test_a_pickle_that_would_call_something(case, nest, capsys):
    path = nest / "network.pkl"
    path.write_bytes(SINGING[case])
    # Some fail after they have sung.
    with open(path, "rb") as file, contextlib.suppress(Exception):
        pickle.load(file)
    assert os.path.isdir(CANARY), "the canary cannot sing"
    os.rmdir(CANARY)
    refused(path, capsys)


@pytest.mark.parametrize("case", TORCH)
def test_a_file_of_torch_that_would_call_something(case, nest, capsys):
    path = nest / "model.pt"
    path.write_bytes(TORCH[case])
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert os.path.isdir(CANARY), "the canary cannot sing"
    os.rmdir(CANARY)
    assert "asks for posix.mkdir, which could run code" in refused(path, capsys, "guided")


def test_a_zip_of_torch_is_no_snapshot(nest, capsys):
    """EDM's training-state-*.pt holds whole modules."""
    path = nest / "training-state-000001.pt"
    path.write_bytes(TORCH["a zip of torch"])
    assert "is a zip, as torch writes them, and no plain pickle" in refused(path, capsys)


def test_a_file_of_torch_that_is_damaged(nest, capsys):
    whole = torch_zip({"x": torch.zeros(1000)})
    for data in (
        b"",
        b"text",
        zip_with(dumped(Calls(os.mkdir, CANARY))),
        whole[: len(whole) // 2],
        huge_storage(),
        legacy_torch({"x": torch.zeros(99)})[:-8],
    ):
        path = nest / "model.pt"
        path.write_bytes(data)
        refused(path, capsys, "guided")


def test_a_safetensors_file_with_a_false_header(nest, capsys):
    header = b'{"x":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    for data in (struct.pack("<Q", 10**10), struct.pack("<Q", len(header)) + header + b"1234"):
        path = nest / "model.safetensors"
        path.write_bytes(data)
        assert "is damaged or no safetensors file" in refused(path, capsys, "guided")


@pytest.mark.parametrize("case", SILENT)
def test_a_pickle_that_is_damaged_or_without_end(case, nest, capsys, monkeypatch):
    path = nest / "network.pkl"
    path.write_bytes(silent(case, monkeypatch))
    refused(path, capsys)


def test_what_a_pickle_asks_for_is_named(nest, capsys):
    path = nest / "network.pkl"
    path.write_bytes(SINGING["a call"])
    assert "asks for posix.mkdir, which could run code" in refused(path, capsys)
    path.write_bytes(dumped(Calls(eval, "1")))
    assert "asks for builtins.eval, which could run code" in refused(path, capsys)


def test_the_source_text_in_a_snapshot_is_not_run(nest, monkeypatch, capsys):
    """It is in every honest file, so that no list of bad names would notice."""
    persistence(monkeypatch)
    source = f"import os\nos.mkdir('{CANARY}')\n"
    whole = snapshot("edm_ddpmpp")
    for thing in (whole["ema"], whole["ema"].meta["state"]["_modules"]["model"]):
        thing.meta["module_src"] = source
    path = nest / "network.pkl"
    path.write_bytes(dumped(whole))
    assert main(["profile", f"edm:{path}", "--counts-only"]) == 0
    assert not os.path.exists(CANARY)


def test_numbers_and_arrays_of_numpy_are_read():
    values = {
        "scale": np.sqrt(np.float64(0.5)),
        "taps": np.array([[1, 3], [3, 1]], dtype=np.int32),
        "on": np.bool_(True),
    }
    found = pickle_reader.read_pickles(io.BytesIO(dumped(values)))
    assert (found["scale"], found["on"]) == (np.sqrt(0.5), True)
    assert found["taps"].value.tolist() == [[1, 3], [3, 1]]
    with pytest.raises(pickle_reader.PickleRefused, match="big-endian"):
        pickle_reader.read_pickles(io.BytesIO(dumped(np.array([1.0], dtype=">f4"))))
    with pytest.raises(pickle_reader.PickleRefused, match="unknown type"):
        pickle_reader.read_pickles(io.BytesIO(dumped(np.array([None]))))


def test_a_name_that_is_known_is_called_by_nobody_else():
    ours = {"denoisezoo.interop.pickle_reader", "denoisezoo.interop.numpy_values", "builtins"}
    for name, function in pickle_reader.CALLS.items():
        assert function.__module__ in ours, name
