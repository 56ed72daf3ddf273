import io
import subprocess
import sys
import types

import pytest

from denoisezoo import __version__, cli
from denoisezoo.errors import UserError
from denoisezoo.version import version_text


@pytest.fixture
def command(monkeypatch):
    """Replaces the command `doctor` by one that runs a given function."""

    def install(function):
        module = types.ModuleType("fake")
        module.add_arguments = lambda parser: parser.add_argument("--steps", type=int)
        module.run = function
        monkeypatch.setitem(sys.modules, "fake", module)
        monkeypatch.setitem(cli.COMMANDS, "doctor", ("fake", "a fake"))

    return install


def raising(error):
    def run(args):
        raise error

    return run


def only_line(capsys):
    """The one line on stderr; stdout must be empty."""
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_names_every_command(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"denoisezoo {version_text(__version__)}\n"


def test_help_of_a_command(capsys):
    assert cli.main(["list", "--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: denoisezoo list" in out
    assert "--family" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lits"], "error: unknown command 'lits'; did you mean list or claims or import?"),
        (["--versoin"], "error: unknown option '--versoin'; did you mean --version"),
        (["list", "--famly", "x"], "error: unknown option '--famly'; did you mean --family"),
        (["list", "--famly=x"], "error: unknown option '--famly'; did you mean --family"),
        (["info"], "error: the following arguments are required: NAME; see denoisezoo info --help"),
        (["info", "a", "b"], "error: unexpected argument 'b'; see denoisezoo info --help"),
        (["list", "--json"], "error: --json: expected one argument; see denoisezoo list --help"),
    ],
)
def test_wrong_words_end_with_one_line(words, line, capsys):
    assert cli.main(words) == 2
    assert only_line(capsys).startswith(line)


def test_wrong_values_end_with_one_line(command, capsys):
    command(lambda args: 0)
    assert cli.main(["doctor", "--steps", "many"]) == 2
    assert only_line(capsys) == "error: --steps: invalid int value: 'many'; see denoisezoo doctor --help"


def test_wrong_choices_name_the_nearest():
    parser = cli.Parser(prog="test")
    parser.add_argument("--color", choices=["red", "green"])
    with pytest.raises(UserError, match="unknown --color 'gren'; did you mean green"):
        parser.parse_args(["--color", "gren"])


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("the sky\n is green", "look up"), 2, "error: the sky is green; look up"),
        (FileNotFoundError(2, "No such file or directory", "/no/where"), 2, "error: No such file or directory: /no/"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device; check"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (ZeroDivisionError("by zero"), 1, "error: unexpected ZeroDivisionError: by zero; run again with --debug"),
        (AssertionError(), 1, "error: unexpected AssertionError; run again with --debug"),
        (ModuleNotFoundError("gone", name="gone"), 1, "error: the package gone is missing; install it"),
    ],
)
def test_errors_end_with_one_line_and_their_status(command, capsys, error, status, line):
    command(raising(error))
    assert cli.main(["doctor"]) == status
    assert only_line(capsys).startswith(line)


@pytest.mark.parametrize("words", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback(command, capsys, words):
    command(raising(UserError("wrong", "mend it")))
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: wrong; mend it\n")


def test_the_status_of_a_command_is_the_program_s(command):
    command(lambda args: 3)
    assert cli.main(["doctor"]) == 3


def test_a_command_may_parse_its_own_words(monkeypatch):
    seen = []
    module = types.ModuleType("raw")
    module.run_raw = lambda argv: seen.extend(argv) or 0
    monkeypatch.setitem(sys.modules, "raw", module)
    monkeypatch.setitem(cli.COMMANDS, "train", ("raw", "raw"))
    assert cli.main(["train", "--a.b", "1", "--debug", "--anything"]) == 0
    assert seen == ["--a.b", "1", "--anything"]


def test_a_reader_that_has_gone_is_no_error(command, monkeypatch, capfd):
    class Gone(io.TextIOWrapper):
        def flush(self):
            raise BrokenPipeError

    command(lambda args: 0)
    with open("/dev/null", "wb") as file:
        monkeypatch.setattr(sys, "stdout", Gone(file))
        status = cli.main(["doctor"])
        monkeypatch.undo()
    assert status == 141
    assert capfd.readouterr().err == ""


def test_help_needs_no_torch():
    code = (
        "import sys; from denoisezoo.cli import main; main(['--help']); main(['profile', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_help_of_sample_names_every_sampler(capsys):
    from denoisezoo.diffusion import SAMPLERS

    assert cli.main(["sample", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    shipped = sorted(name for name, cls in SAMPLERS.items() if cls.__module__.startswith("denoisezoo."))
    assert f"{', '.join(shipped)}, or one of a plugin" in said


def test_a_pipe_that_closes_early_is_quiet():
    script = f"{sys.executable} -m denoisezoo.cli --help | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert int(result.stdout.splitlines()[-1]) in {0, 141}
