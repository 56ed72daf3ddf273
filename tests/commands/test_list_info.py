import json

import pytest

from denoisezoo import cli
from denoisezoo.archs import get_variant, list_denoisers, list_families


def rows(tmp_path, *words):
    path = tmp_path / "rows.json"
    assert cli.main([*words, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_list_shows_the_zoo(tmp_path, capsys):
    data = rows(tmp_path, "list")
    assert [row["name"] for row in data] == list_denoisers()
    out = capsys.readouterr().out
    for row in data:
        variant = get_variant(row["name"])
        assert row["family"] == variant.family.name
        assert (row["params"], row["macs"]) == (variant.costs[-1].params, variant.costs[-1].macs)
        assert row["efforts"] == list(variant.efforts)
        assert row["paper"] == variant.family.paper
        assert len(row["costs"]) == len(row["efforts"])
        assert f"\n{row['name']} " in out
    cifar = next(row for row in data if row["name"] == "ddpm_cifar10")
    assert (cifar["input"], cifar["params"], cifar["macs"]) == ("3x32x32", 35_746_307, 6_221_856_768)
    assert "35.75 M" in out
    assert "6.22 G" in out


def test_list_filters(tmp_path):
    family = list_families()[0]
    assert {row["family"] for row in rows(tmp_path, "list", "--family", family)} == {family}
    names = [row["name"] for row in rows(tmp_path, "list", "DDPM_*")]
    assert names == list_denoisers("ddpm_*") != []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["list", "ddpm_tny*"], "error: unknown denoiser 'ddpm_tny*'; did you mean ddpm_tiny"),
        (["list", "--family", "ddmp"], "error: unknown family 'ddmp'; did you mean ddpm"),
        (["info", "ddpm_cifar11"], "error: unknown denoiser 'ddpm_cifar11'; did you mean ddpm_cifar10"),
    ],
)
def test_unknown_names(words, line, capsys):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(line)


@pytest.mark.parametrize("name", list_denoisers("*_tiny"))
def test_info_tells_all(name, tmp_path, capsys):
    (entry,) = rows(tmp_path, "info", name)
    variant = get_variant(name)
    assert entry["doc"] == variant.family.doc
    assert entry["variants"] == list_denoisers(family=variant.family.name)
    defaults = {argument["name"]: argument["default"] for argument in entry["arguments"]}
    assert defaults["resolution"] == variant.spec.resolution
    assert all(argument["type"] for argument in entry["arguments"])
    out = capsys.readouterr().out
    assert variant.family.title in out
    assert f"{variant.costs[-1].macs:,}" in out
    assert all(other in out for other in entry["variants"])
