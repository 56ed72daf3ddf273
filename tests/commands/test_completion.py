"""The scripts complete in the shells that are installed; bash always is."""

import shutil
import subprocess

import pytest

from denoisezoo.archs import list_denoisers
from denoisezoo.cli import main
from denoisezoo.commands.completion import SHELLS, WORDS, whole_parser
from denoisezoo.diffusion import SAMPLERS
from denoisezoo.train.recipe_names import list_recipes


@pytest.fixture(scope="module")
def parser():
    return whole_parser()


@pytest.fixture
def script(tmp_path, monkeypatch, capsys, parser):
    """Writes the script for a shell."""
    monkeypatch.setattr("denoisezoo.commands.completion.whole_parser", lambda: parser)

    def write(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / f"denoisezoo.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


def starting(words, start):
    return {word for word in words if word.startswith(start)}


FIRST = list_denoisers()[0]
CASES = {
    "co": {"compare", "completion"},
    "--ver": {"--version"},
    f"info {FIRST[:3]}": starting(list_denoisers(), FIRST[:3]),
    f"profile {FIRST} {FIRST[:3]}": starting(list_denoisers(), FIRST[:3]),
    "profile kept": {"kept.json"},
    "compare digits/ddpm digits/sr4": starting(list_recipes(), "digits/sr4"),
    "train --config digits/sr4": starting(list_recipes(), "digits/sr4"),
    "train --config digits/ddpm --trainer.max_s": {"--trainer.max_steps"},
    "train --config digits/ddpm --data ImageF": {"ImageFolder"},
    "sample kept.json --sampler d": starting(SAMPLERS, "d"),
    "evaluate kept.json --split ": {"train", "test", "all"},
    "list --fam": {"--family"},
}
"""What is typed -> what comes."""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(script, tmp_path):
    (tmp_path / "kept.json").touch()
    lines = [f"source {script('bash')}"]
    for typed in CASES:
        words = " ".join(f"'{word}'" for word in ["denoisezoo", *typed.split(" ")])
        lines += [f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _shtab_denoisezoo"]
        lines += ['echo "${COMPREPLY[*]}"']
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert {typed: set(line.split()) for typed, line in zip(CASES, done.stdout.splitlines(), strict=True)} == CASES


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(script, tmp_path):
    (tmp_path / "kept.json").touch()
    path = script("fish")
    for typed, expected in CASES.items():
        command = f"source {path}; complete -C 'denoisezoo {typed}'"
        done = subprocess.run(["fish", "--no-config", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_the_script(script):
    subprocess.run(["zsh", "-n", script("zsh")], check=True)


def test_a_shell_that_is_none_of_them(capsys):
    assert main(["completion", "basch"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown SHELL 'basch'; did you mean bash")
    assert set(SHELLS) == {"bash", "zsh", "fish"}


def test_words_stand_for_arguments_that_there_are(parser):
    (commands,) = parser._subparsers._group_actions
    found = set()
    for name, command in commands.choices.items():
        for action in command._actions:
            found |= {str(action.metavar), action.dest, f"{name} {action.dest}"}
    assert set(WORDS) <= found
