"""Which commit this is, in a checkout, in what was built from one, and elsewhere."""

import re
import subprocess

import pytest

from denoisezoo import version
from denoisezoo.version import RECORD, git_commit, version_text


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The file of the module, as if it lay in a folder that is no checkout yet."""
    path = tmp_path / "denoisezoo" / "version.py"
    path.parent.mkdir(parents=True)
    path.write_text("one")
    monkeypatch.setattr(version, "__file__", str(path))
    git_commit.cache_clear()
    yield path
    git_commit.cache_clear()


def test_the_commit_is_that_of_the_checkout(source):
    root = source.parents[1]

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert git_commit.__wrapped__() is None  # no repository
    git("init", "-q")
    assert git_commit.__wrapped__() is None  # no commit yet
    git("add", ".")
    git("commit", "-qm", "one")
    clean = git_commit.__wrapped__()
    assert clean == git("rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (root / "notes.txt").write_text("not tracked")
    assert git_commit.__wrapped__() == clean
    source.write_text("two")
    assert git_commit.__wrapped__() == clean + "-dirty"
    assert version_text("1.2") == f"1.2 (commit {clean[:7]}-dirty)"


def test_an_installation_inside_another_repository_has_not_its_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    installed = tmp_path / ".venv" / "site-packages" / "denoisezoo" / "version.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(version, "__file__", str(installed))
    assert git_commit.__wrapped__() is None
    installed.with_name(RECORD).write_text("0123456789\n")
    assert git_commit.__wrapped__() == "0123456789"


def test_without_a_commit_the_version_stands_alone(source):
    assert version_text("1.2") == "1.2"
    source.with_name(RECORD).write_text("0123456789\n")
    git_commit.cache_clear()
    assert version_text("1.2") == "1.2 (commit 0123456)"
