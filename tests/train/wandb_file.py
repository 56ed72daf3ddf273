"""Reads the files of an offline W&B run: LevelDB's log format, in it protocol buffers."""

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(path):
    """The payloads of a log; a part that was cut off is left out."""
    data, position, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        parts = (
            data[position + HEADER : position + HEADER + size]
            if kind in (FULL, FIRST)
            else parts + data[position + HEADER : position + HEADER + size]
        )
        position += HEADER + size
        if kind in (FULL, LAST):
            yield parts


@dataclass
class OfflineRun:
    """What an offline run holds.

    Attributes:
        history: Rows, each a dictionary.
        config: The run's configuration.
        summary: The last summary of each key.
        artifacts: Name and type of each artifact, with its metadata.
        metrics: Metric (or pattern) -> step metric.
        files: Paths below `files/`.
    """

    identity: str = ""
    history: list = field(default_factory=list)
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    metrics: dict = field(default_factory=dict)
    files: list = field(default_factory=list)


def unfold(items):
    """A dictionary of W&B's items; what lies within media is a dictionary of its own."""
    found = {}
    for item in items:
        value = json.loads(item.value_json)
        if len(item.nested_key) > 1:
            found.setdefault(item.nested_key[0], {})[".".join(item.nested_key[1:])] = value
        else:
            found[item.key or item.nested_key[0]] = value
    return found


def ended(path):
    """Whether a log has its last record."""
    from wandb.proto.wandb_internal_pb2 import Record

    return any(Record.FromString(payload).WhichOneof("record_type") == "exit" for payload in payloads(path))


def wait_until_written(folder: Path, seconds=60) -> None:
    """W&B's service writes the log of a run that has ended a moment after `finish` returned, in one of 60 runs."""
    last = time.monotonic() + seconds
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        while not ended(path):
            assert time.monotonic() < last, f"{path} has no end"
            time.sleep(0.02)


def read_offline_run(folder: Path) -> OfflineRun:
    """Everything that the folder `offline-run-*` holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    found = OfflineRun(files=[str(p.relative_to(folder / "files")) for p in (folder / "files").rglob("*")])
    for payload in payloads(path):
        record = Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found.history.append(unfold(record.history.item))
        elif kind == "run":
            found.identity = record.run.run_id
            found.config |= unfold(record.run.config.update)
        elif kind == "config":
            found.config |= unfold(record.config.update)
        elif kind == "summary":
            found.summary |= unfold(record.summary.update)
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind in ("artifact", "request") and record.artifact.name:
            found.artifacts.append((record.artifact.name, record.artifact.type, record.artifact.metadata))
    return found


def offline_runs(folder: Path) -> list[OfflineRun]:
    """The offline runs of a run folder, in the order of time; all of them have ended."""
    wait_until_written(folder)
    return [read_offline_run(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
