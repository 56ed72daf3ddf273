"""Paths: a URL is refused in one line wherever one is given, and nothing is made of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.files import beside, local_path, no_run, write_text


@pytest.mark.parametrize(
    "url", ["memory://zoo", "file:///tmp/run", "s3://bucket/run", "FILE:/x", "local://a", "a+b.c://d"]
)
def test_urls_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (url, Path(url)):
        with pytest.raises(UserError, match="is a URL"):
            local_path(path)
        with pytest.raises(UserError, match="is a URL"):
            write_text(path, "text")
    assert list(tmp_path.iterdir()) == []


def test_the_cure_of_a_file_url_is_its_path():
    with pytest.raises(UserError) as error:
        local_path("file:///data/run 1")
    assert error.value.cure == "give /data/run 1"


@pytest.mark.parametrize("path", ["run", "./a:b/c", "runs/x://y", "C:/zoo", "/memory:/zoo", "16:9/images", ":/", "a:b"])
def test_paths_are_taken_as_they_are(path):
    assert local_path(path) == Path(path)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_an_absolute_path_is_never_a_url(text):
    assert local_path("/" + text) == Path("/" + text)


URL = "memory://zoo"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", URL],
        ["train", f"--config={URL}"],
        ["train", "--config", "RECIPE", "--trainer.default_root_dir", URL],
        ["train", "--config", "RECIPE", "--data", "ImageFolder", "--data.path", URL, "--data.resolution", "16"],
        ["train", "--config", "RECIPE", "--data", "Cifar10", "--data.root", URL],
        ["sample", URL],
        ["sample", "RUN", "--out", URL],
        ["sample", "RUN", "--plan", URL],
        ["evaluate", URL],
        ["evaluate", "RUN", "--json", URL],
        ["evaluate", "RUN", "--csv", URL],
        ["evaluate", "RUN", "--lpips", URL],
        ["export", "RUN", "--out", URL],
        ["profile", URL, "--counts-only"],
        ["search", "RUN", "--out", URL],
        ["compare", "RECIPE", "--out", URL],
        ["compare", URL],
        ["study", "solvers", "RUN", "--out", URL],
        ["study", "adaptive", URL],
        ["doctor", "--json", URL],
    ],
)
def test_every_command_refuses_them_and_makes_nothing(words, trained, recipe, tmp_path, monkeypatch, capsys):
    places = {"RUN": str(trained()), "RECIPE": str(recipe)}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    capsys.readouterr()
    assert main([places.get(word, word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"{URL} is a URL" in line
    assert list(Path().iterdir()) == []


def test_what_looks_like_a_path_that_is_not_there(tmp_path):
    for name in ("mine", "yours", "other.json"):
        (tmp_path / name).mkdir()
    assert beside(tmp_path / "mien") == f"did you mean {tmp_path / 'mine'}?"
    assert beside(tmp_path / "qqqqqq") == beside(tmp_path / "no" / "mine") == ""
    assert str(no_run(tmp_path / "mnie")).endswith(f"did you mean {tmp_path / 'mine'}?")
