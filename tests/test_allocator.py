"""What is freed stays: repeated steps cause no page faults, and who has chosen otherwise is left alone."""

import os
import platform
import subprocess
import sys

import pytest

from denoisezoo.allocator import CHOSEN

STEPS = """
import resource, sys
import torch
from denoisezoo.allocator import keep_freed_memory

torch.set_num_threads(1)
told = keep_freed_memory()

def step():
    activations = [torch.zeros(2**18) for _ in range(20)]  # 1 MiB each

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(told, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def steps(**variables):
    """Whether the library was told, and the page faults of a step."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN} | variables
    words = [sys.executable, "-c", STEPS]
    told, faults = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.split()
    return told == "True", float(faults)


@glibc
def test_steps_get_the_memory_of_the_last_one():
    told, faults = steps()
    assert told
    assert faults < 50  # 20 MiB are 5,120 pages


@glibc
def test_the_environment_has_the_last_word():
    told, faults = steps(MALLOC_MMAP_THRESHOLD_=str(2**16))
    assert not told
    assert faults > 1000


def test_other_systems_are_left_alone(monkeypatch):
    from denoisezoo import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()


def test_a_c_library_without_the_option_is_left_alone(monkeypatch):
    import ctypes

    from denoisezoo import allocator

    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
