"""One folder has one writer: who is second is told who is first, and nothing is left of one that has ended."""

import errno
import fcntl
import json
import multiprocessing
import os
import platform
import re
import signal
import threading

import pytest

from denoisezoo.errors import UserError
from denoisezoo.locking import NAME, only_writer

SPAWN = multiprocessing.get_context("spawn")


def hold(folder, parent):
    """What another process does until it is told to end."""
    with only_writer(folder, "wait"):
        parent.send("held")
        parent.poll(60)


@pytest.fixture
def other(tmp_path):
    """Another process that writes into `tmp_path / "run"`, and what lets it end."""
    child, parent = SPAWN.Pipe()
    process = SPAWN.Process(target=hold, args=(tmp_path / "run", parent))
    process.start()
    assert child.poll(60)
    yield process, lambda: child.send("end")
    process.kill()
    process.join(60)


def test_the_second_is_told_who_is_first(other, tmp_path):
    process, release = other
    with pytest.raises(UserError) as error, only_writer(tmp_path / "run", "wait"):
        pass
    expected = rf"{re.escape(str(tmp_path / 'run'))} is being written by process {process.pid} on "
    expected += rf"{re.escape(platform.node())} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(expected, error.value.what)
    assert error.value.cure == "wait"
    release()
    process.join(60)
    with only_writer(tmp_path / "run", "wait"):
        pass
    assert not (tmp_path / "run").exists()  # neither wrote anything


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == process.pid  # it cleaned nothing up
    with only_writer(tmp_path / "run", "wait"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / NAME).exists()


def test_who_waits_comes_after(other, tmp_path):
    _, release = other
    order = []
    threading.Timer(0.3, lambda: (order.append("released"), release())).start()
    with only_writer(tmp_path / "run", "", wait=True):
        order.append("held")
    assert order == ["released", "held"]


def test_one_after_the_other_in_one_process_and_never_within(tmp_path):
    for _ in range(3):
        with only_writer(tmp_path, "wait"):
            with pytest.raises(UserError, match=f"process {os.getpid()} "), only_writer(tmp_path, "wait"):
                pass
            assert (tmp_path / NAME).is_file()
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_nothing_are_removed_and_those_with_work_stay(tmp_path):
    with pytest.raises(KeyError), only_writer(tmp_path / "a" / "b", ""):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with only_writer(tmp_path / "a" / "b", ""):
        (tmp_path / "a" / "work").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "work"]


def test_a_folder_that_cannot_be_written_can_be_read(tmp_path, monkeypatch):
    def refused(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with only_writer(tmp_path, ""):
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"), only_writer(tmp_path / "file" / "run", ""):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, as some of clusters are."""

    def unsupported(descriptor, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_live_process_of_this_machine_still_counts(other, tmp_path):
    process, _ = other
    with pytest.raises(UserError, match=rf"process {process.pid} .*delete .*{NAME}"), only_writer(tmp_path / "run", ""):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with only_writer(tmp_path / "run", ""):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_one_of_another_machine_is_named(tmp_path, capsys):
    """A job that was killed goes on elsewhere: it must not be refused."""
    (tmp_path / NAME).write_text(json.dumps({"pid": os.getpid(), "host": "node-7", "since": "yesterday"}))
    with only_writer(tmp_path, ""):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: process {os.getpid()} of node-7 may still write into {tmp_path}")


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff", '{"pid": 1}', '{"pid": "x", "host": "HOST", "since": 1}'])
def test_a_damaged_name_is_nobody_s(tmp_path, text):
    (tmp_path / NAME).write_bytes(text.replace("HOST", platform.node()).encode(errors="surrogateescape"))
    with only_writer(tmp_path, ""):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
