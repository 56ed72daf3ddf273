"""The ledger: every figure is what its rows give, and one that is not is found."""

import json
import re
from pathlib import Path

import pytest
import yaml

from denoisezoo.cli import main
from denoisezoo.compare.claims import VERDICTS, Claim, claims, written_like
from denoisezoo.errors import UserError

RESULTS = Path(__file__).parents[2] / "results"
PAPERS = {"missing_u", "ddsm", "msdiff", "udpm", "edm", "gddim", "cmde", "fast_ddpm", "wireless"}
ROWS = "name,seed,fd,kind\na,0,1.0,x\na,1,1.2,x\na,2,1.4,y\nb,0,4.0,x\nb,1,,x\n"


@pytest.fixture
def ledger(tmp_path):
    """Writes a ledger of one claim with these figures, over rows of its own, and reads it."""
    (tmp_path / "rows.csv").write_text(ROWS)

    def write(figures, why="because", verdict="reproduced", **fields):
        entry = {"claim": "c", "source": "s", "verdict": verdict, "why": why, "figures": figures, **fields}
        (tmp_path / "paper.yaml").write_text(yaml.safe_dump({"paper": "P", "claims": {"one": entry}}))
        return claims(folder=tmp_path)

    return write


def fd(says=None, **fields):
    return {"rows": "rows.csv", "take": "fd", **fields} | ({} if says is None else {"says": says})


def test_the_ledger_agrees_with_the_rows():
    assert claims().check(RESULTS) == []


def test_every_paper_has_claims_and_every_claim_that_was_measured_its_figures():
    ledger = claims()
    assert {claim.name.partition("/")[0] for claim in ledger.claims} >= PAPERS
    for claim in ledger.claims:
        told = "not checkable" in claim.verdict or re.search(r"tests/\w+", claim.why)
        assert claim.figures or told, f"{claim.name} has a verdict and no figure"
        assert not claim.figures or claim.command, f"{claim.name} does not say how to measure it again"


@pytest.mark.parametrize(
    ("figure", "right", "wrong"),
    [
        ({"where": {"name": "a"}}, "1.20 ± 0.20", "1.20 ± 0.16"),  # the standard deviation of a sample: n - 1
        ({"where": {"name": "a", "seed": 1}}, "1.2", "1.3"),
        ({"where": {"name": "b"}}, "4.0", "2.0"),  # a row without the value is none
        ({"where": [{"name": "a", "seed": [0, 1]}, {"name": "b"}]}, "2.067", "1.650"),
        ({"per": "kind"}, "1.73", "1.90"),  # x: (1 + 1.2 + 4) / 3, y: 1.4
        ({"where": {"kind": "*"}, "reduce": "max"}, "400 %", "40 %"),
        ({"where": {"name": "a"}, "reduce": "median"}, "1.2x", "1.0x"),
        ({"reduce": "count"}, "4", "5"),
    ],
)
def test_a_figure_of_rows(ledger, tmp_path, figure, right, wrong):
    assert ledger({"f": fd(right, **figure)}).check(tmp_path) == []
    (line,) = ledger({"f": fd(wrong, **figure)}).check(tmp_path)
    assert line == f"paper/one, figure f: the ledger says {wrong}, and its rows give {right}"


def test_a_computed_figure(ledger, tmp_path):
    figures = {
        "a": fd(where={"name": "a"}),
        "b": fd(where={"name": "b"}),
        "f": {"compute": "1 - a / b", "says": "70 %"},
    }
    assert ledger(figures, why="saves {f}").check(tmp_path) == []
    assert ledger(figures, why="saves {f}").claims[0].reason == "saves 70 %"
    figures["f"]["compute"] = "-(a - b) ** 2 * 0.5"
    (line,) = ledger(figures).check(tmp_path)
    assert line.endswith("its rows give -392 %")


@pytest.mark.parametrize(
    ("says", "value", "spread", "written"),
    [
        ("1.21 ± 0.04", 1.214, 0.0449, "1.21 ± 0.04"),
        ("8,811,875", 8811875.4, None, "8,811,875"),
        ("2.24 M", 2239777, None, "2.24 M"),
        ("-15.18 dB", -15.181, None, "-15.18 dB"),
        ("0", 0.4, 0.1, "0"),
        ("4.4x", 4.35001, None, "4.4x"),
    ],
)
def test_numbers_are_written_as_the_ledger_has_them(says, value, spread, written):
    assert written_like(says, value, spread) == written


@pytest.mark.parametrize(
    ("figures", "why", "message"),
    [
        ({"f": fd("1.0", where={"name": "c"})}, "", "rows.csv has no row where .*; mend"),
        ({"f": fd("1.0", where={"nam": "a"})}, "", "unknown column of rows.csv 'nam'; did you mean name"),
        ({"f": {"rows": "none.csv", "take": "fd", "says": "1"}}, "", "there is no file .*none.csv"),
        ({"f": fd("about one")}, "", "'about one' is no figure"),
        ({"f": fd("1.0 ± 0.1", where={"name": "b"})}, "", "one row has no spread"),
        ({"f": fd("1.0", reduce="meen")}, "", "unknown reduction 'meen'; did you mean mean"),
        ({"f": {"compute": "a / b", "says": "1"}}, "", "unknown figure 'a'"),
        ({"f": {"compute": "__import__('os')", "says": "1"}}, "", "is no sum of figures"),
        ({"f": {"compute": "1 / 0", "says": "1"}}, "", "cannot be computed"),
        ({"f": fd("1.0", takes="fd")}, "", "unknown field of figure f of paper/one 'takes'; did you mean take"),
        ({"f": {"says": "1.0"}}, "", "figure f of paper/one has no rows"),
        ({"f": fd("1.0")}, "{g}", "why of paper/one names g"),
    ],
)
def test_mistakes_in_the_ledger(ledger, tmp_path, figures, why, message):
    with pytest.raises(UserError, match=message):
        ledger(figures, why=why).check(tmp_path)


def test_mistakes_in_its_fields(ledger, tmp_path):
    with pytest.raises(UserError, match=r"unknown verdict of paper/one 'proven'"):
        ledger({}, verdict="proven")
    with pytest.raises(UserError, match=r"unknown field of paper/one 'sauce'; did you mean source"):
        ledger({}, sauce="s")
    for text in ("paper: P", "- a", "paper: [", "paper: P\nclaims: {one: {claim: c}}"):
        (tmp_path / "paper.yaml").write_text(text)
        with pytest.raises(UserError, match=r"paper"):
            claims(folder=tmp_path)


def test_the_command_prints_writes_and_checks(tmp_path, capsys, monkeypatch):
    page, rows = tmp_path / "claims.html", tmp_path / "claims.json"
    assert main(["claims", "ddsm/*", "--html", str(page), "--json", str(rows), "--results", str(RESULTS)]) == 0
    assert "ddsm/half_the_compute" in capsys.readouterr().out
    html = page.read_text()
    assert {verdict for verdict in VERDICTS if f">{verdict}</span>" in html} >= {"reproduced", "not checkable here"}
    assert not re.search(r"(?:src|href)=.?https?:", html)  # it needs nothing else
    assert [row["name"] for row in json.loads(rows.read_text())] == [claim.name for claim in claims("ddsm/*").claims]
    assert main(["claims", "ddsm/half_the_compute"]) == 0
    assert "0.424 ± 0.003" in capsys.readouterr().out
    assert main(["claims", "--check", "--results", str(RESULTS)]) == 0
    assert "agree with the rows" in capsys.readouterr().out

    monkeypatch.setattr(Claim, "check", lambda self, results: [f"{self.name}, figure f: wrong"])
    assert main(["claims", "udpm/less*", "--check", "--results", str(RESULTS)]) == 2
    assert capsys.readouterr().err == "error: udpm/less_than_one_step, figure f: wrong; mend the ledger, or the rows\n"


@pytest.mark.parametrize("words", [["nope"], ["--check", "--results", "nowhere"], ["--html", "no/such/folder/x.html"]])
def test_mistakes_on_the_command_line(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["claims", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
