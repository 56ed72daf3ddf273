"""The script that measures a GPU, rehearsed without one: a part of it, its limits and its estimates."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = ["tests", "eager", "compiled", "inference", "sampling", "extraction", "adm", "family"]


def rehearse(out, *parts, python=sys.executable):
    environment = os.environ | {"OUT": str(out), "PARTS": " ".join(parts), "OMP_NUM_THREADS": "1"}
    words = ["bash", str(SCRIPT), "--rehearse", str(python)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, check=False)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_parts_have_limits_of_nine_minutes_in_all_and_estimates_below_them():
    text = SCRIPT.read_text()
    assert re.search(r'^ALL="(.*)"$', text, re.M)[1].split() == PARTS
    function = re.search(r"^limit_of\(\) \{.*?^\}", text, re.M | re.S)[0]
    asked = f"{function}\nfor part in {' '.join(PARTS)}; do limit_of $part; done"
    limits = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert sum(map(int, limits)) <= 540
    estimates = {row["part"]: float(row["estimate_s"]) for row in rows(ROOT / "results" / "gpu_estimates.csv")}
    assert list(estimates) == PARTS
    assert all(0 < estimates[part] <= int(limit) for part, limit in zip(PARTS, limits, strict=True))


def test_a_part_is_rehearsed_and_writes_its_rows(tmp_path):
    found = rehearse(tmp_path, "sampling")
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"== sampling: about \d+ s on an H200, at most 40 s", found.stdout)
    assert [(row["sampler"], row["nfe"], row["num"]) for row in rows(tmp_path / "sampling_rehearsal.csv")] == [
        *(("heun", "3", "8"), ("ddpm", "3", "8"))
    ]
    (part,) = rows(tmp_path / "parts_rehearsal.csv")
    assert (part["part"], part["status"]) == ("sampling", "0")
    assert "heun:2" in (tmp_path / "gpu_rehearsal.log").read_text()


def test_a_part_that_fails_leaves_the_others_alone_and_is_told(tmp_path):
    python = tmp_path / "python"  # has no pretended device, makes the images, and knows one benchmark
    python.write_text("""#!/bin/bash
case "$1" in
  benchmarks/pretended.py) exit 3 ;;
  -c) touch "${@: -1}" ;;
  benchmarks/train_step.py) echo trained ;;
  *) exit 7 ;;
esac
""")
    python.chmod(0o755)
    found = rehearse(tmp_path / "rows", "sampling", "adm", python=python)
    assert found.returncode == 1
    assert "did not end well: sampling(7)" in found.stdout
    statuses = [(row["part"], row["status"]) for row in rows(tmp_path / "rows" / "parts_rehearsal.csv")]
    assert statuses == [("sampling", "7"), ("adm", "0")]
    assert "trained" in (tmp_path / "rows" / "gpu_rehearsal.log").read_text()
