"""What is said where other programs keep the processors busy."""

import os
import re

import pytest

from denoisezoo.machine_load import Load, warn_of_others


@pytest.mark.parametrize(("others", "chosen", "told"), [(0.9, None, True), (0.1, None, False), (0.9, "1", False)])
def test_a_busy_machine_is_told(others, chosen, told, monkeypatch, capsys):
    """Of ten seconds of all processors this process used one, others a share; who has chosen threads knows."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    used = others * 10 * os.cpu_count()
    monkeypatch.setattr(Load, "now", classmethod(lambda cls: cls(20.0, 100.0 + used + 1, 6.0)))
    warn_of_others(Load(10.0, 100.0, 5.0))
    found = re.search(r"keep (\d+)% of the processors busy", capsys.readouterr().err)
    assert (found and int(found[1])) == (90 if told else None)


def test_the_counters_go_on():
    begin = Load.now()
    sum(range(3_000_000))
    assert Load.now().own > begin.own
    assert -0.5 < begin.others_since() < 1.5
