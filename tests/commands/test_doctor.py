import json

import torch

from denoisezoo import cli
from denoisezoo.commands import doctor


def test_doctor_reports(tmp_path, capsys):
    path = tmp_path / "doctor.json"
    assert cli.main(["doctor", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())
    assert row["torch"] == torch.__version__
    assert row["threads"] == torch.get_num_threads()
    assert row["memory"]["total_bytes"] > row["memory"]["available_bytes"] > 0
    assert row["disk"]["free_bytes"] > 0
    assert row["packages"]["lightning"]
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in row["packages"])
    assert all(item["cost"] in out for item in row["missing"])
    assert "pytest" not in row["packages"]
    assert cli.main(["doctor", "--all"]) == 0
    assert "\npytest " in capsys.readouterr().out


def test_missing_packages_tell_their_cost(monkeypatch):
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda _: ["fvcore", "lightning>=2.6.4", "no-such-core[x]>=1", "no-such-extra; extra == 'test'"],
    )
    found = {item["name"]: item for item in doctor.packages()}
    assert found["fvcore"]["version"]
    assert found["fvcore"]["cost"] is None
    assert found["no-such-core"]["cost"] == "nearly everything: install denoisezoo again"
    assert found["no-such-extra"]["extra"] == "test"
    assert [item["what"] for item in doctor.missing(list(found.values()))] == ["no-such-core", "no-such-extra"]


def test_every_declared_package_has_a_cost_or_is_essential():
    essential = {
        *("torch", "torchvision", "numpy", "pillow", "lightning", "jsonargparse", "pyyaml", "safetensors"),
        *("scikit-learn", "rich"),
    }
    assert {item["name"] for item in doctor.packages()} == essential | set(doctor.COST_OF_MISSING)


def test_a_malicious_release_is_told(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.6.2")
    assert "malicious" in doctor.package("lightning", None)["cost"]


def test_the_compiler_is_looked_for_where_torch_does(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert doctor.find_compiler() is None
    compiler = tmp_path / "my-c++"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    assert doctor.find_compiler() == str(compiler)


def test_absent_inception_weights_and_compiler_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("DENOISEZOO_INCEPTION", str(tmp_path / "none.pth"))
    compiler, weights = doctor.abilities()
    assert (compiler["value"], weights["value"]) == (None, None)
    assert "torch.compile" in compiler["cost"]
    assert "FID" in weights["cost"]


def test_present_inception_weights_are_found(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    monkeypatch.setenv("DENOISEZOO_INCEPTION", str(path))
    _, weights = doctor.abilities()
    assert (weights["value"], weights["cost"]) == (str(path), None)
