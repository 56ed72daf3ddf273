"""The log: flushed, appended to without being read again, its parts in the order of their steps."""

import os

from denoisezoo.train import log
from denoisezoo.train.log import FILE, LOGS, RunLog, read_log


def test_rows_are_appended_without_reading_the_file_and_reach_the_disk(tmp_path, monkeypatch):
    found = RunLog(tmp_path, 0)
    found.log_metrics({"a": 1.0}, step=0)
    found.save()
    flushed = []
    monkeypatch.setattr(log.os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(log, "read_rows", None)  # calling it would fail
    for step in (1, 2):
        found.log_metrics({"a": 2.0 * step}, step=step)
        found.save()
    monkeypatch.undo()
    assert flushed == [(tmp_path / LOGS / "from_step_00000000" / FILE).stat().st_ino] * 2
    assert read_log(tmp_path) == {0: {"a": 1.0}, 1: {"a": 2.0}, 2: {"a": 4.0}}


def test_parts_are_read_by_their_steps_whenever_they_were_written(tmp_path):
    """As after a copy that does not keep times."""
    for step, value, time in ((0, 1.0, 300), (2, 2.0, 200), (10, 3.0, 100)):
        part = RunLog(tmp_path, step)
        for i in (step, 11):
            part.log_metrics({"a": value}, step=i)
        part.save()
        os.utime(tmp_path / LOGS / f"from_step_{step:08d}" / FILE, (time, time))
    assert read_log(tmp_path) == {0: {"a": 1.0}, 2: {"a": 2.0}, 10: {"a": 3.0}, 11: {"a": 3.0}}
