"""The public API: what `import denoisezoo as dz` gives, lazily, and that its functions do what the commands do."""

import base64
import inspect
import json
import subprocess
import sys

import pytest
import torch
import yaml

import denoisezoo as dz
from denoisezoo import cli
from denoisezoo.search.search import SearchResult

LAZY = """
import sys, denoisezoo as dz
assert "torch" not in sys.modules and "train" in dir(dz)
import denoisezoo.train, denoisezoo.search, denoisezoo.compare
assert "torch" not in sys.modules
assert all(callable(package) for package in (dz.train, dz.search, dz.compare))
"""


def test_nothing_heavy_is_imported_unasked():
    subprocess.run([sys.executable, "-c", LAZY], check=True)


def test_all_that_is_public_is_there():
    assert {"load", "train", "evaluate", "profile", "search", "compare", "info", "Given"} <= set(dir(dz))
    for name in dir(dz):
        assert getattr(dz, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        dz.tain  # noqa: B018


@pytest.mark.parametrize("name", ["train", "search", "compare"])
def test_a_package_is_a_function_of_its_name(name):
    from denoisezoo.train.fit import train as of_words

    package = getattr(dz, name)
    assert inspect.ismodule(package)
    assert package.__doc__ == getattr(sys.modules["denoisezoo.api"], name).__doc__
    assert inspect.signature(package) == inspect.signature(getattr(sys.modules["denoisezoo.api"], name))
    assert dz.train.fit.train is of_words


@pytest.mark.parametrize("name", ["load", "train", "evaluate", "profile", "search", "compare", "info"])
def test_functions_tell_how_they_are_called(name):
    doc = inspect.getdoc(getattr(dz, name))
    assert f"dz.{name}(" in doc
    assert "Raises:" in doc


@pytest.mark.parametrize("registry", ["PROCESSES", "OBJECTIVES", "PRECONDITIONINGS", "SAMPLERS"])
def test_what_is_registered_can_be_composed(registry):
    for cls in getattr(dz.diffusion, registry).values():
        if cls.__module__.startswith("denoisezoo."):
            assert getattr(dz.diffusion, cls.__name__) is cls
            assert cls.__name__ in dz.diffusion.__all__


def test_a_recipe_is_trained_loaded_and_evaluated(recipe, tmp_path):
    folder = tmp_path / "run"
    content = yaml.safe_load(recipe.read_text())
    content["trainer"]["default_root_dir"] = folder
    run = dz.train(content, trainer={"max_steps": 2}, **{"model.optimizer.lr": 2e-3})
    assert (run.facts["train_steps"], run.config["model"]["optimizer"]["lr"]) == (2, 2e-3)
    assert dz.train(content, trainer={"max_steps": 3}, **{"model.optimizer.lr": 2e-3}).facts["train_steps"] == 3
    denoiser = dz.load(folder)
    assert denoiser.run.folder == folder
    terms = {"num": 4, "sampler": "euler", "steps": 2, "device": "cpu"}
    result = dz.evaluate(denoiser, **terms)
    words = ["--num", "4", "--sampler", "euler", "--steps", "2", "--device", "cpu", "--json", str(tmp_path / "a.json")]
    assert cli.main(["evaluate", str(folder), *words]) == 0
    (row,), (told,) = result.rows(), json.loads((tmp_path / "a.json").read_text())
    for key in ("fd_pixels", "macs_per_image", "train_steps", "dataset_sha256", "run"):
        assert row[key] == told[key]
    assert "fd_pixels" in str(result)
    picture = base64.b64decode(result._repr_html_().partition("base64,")[2].partition('"')[0])
    assert picture.startswith(b"\x89PNG")


def test_a_class_is_replaced_whole(recipe, tmp_path):
    shape = {"trainer": {"max_steps": 1, "default_root_dir": tmp_path / "run"}}
    flow = {"process": {"class_path": "RectifiedFlow"}, "preconditioning": {"class_path": "Velocity"}}
    flow["objective"] = {"class_path": "Simple"}
    run = dz.train(recipe, model=flow, **shape)
    assert isinstance(run.denoiser.process, dz.diffusion.RectifiedFlow)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trainer": {"max_stepz": 3}}, "unknown key 'trainer.max_stepz'; did you mean max_steps"),
        ({"model.optimizer.learning_rate": 0.1}, "'model.optimizer.learning_rate'; model.optimizer has betas, lr, "),
        ({"data": {"class_path": "ImageFolder"}}, "path is missing; give data.path"),
        ({"model.optimizer.lr": "fast"}, "model.optimizer.lr is 'fast'; give a value of type"),
        ({"model": {"process": object()}}, "model.process is of type object, which no recipe holds; give plain values"),
        ({"model.network": {"num_classes": 2}}, "model.network.num_classes=0`, or "),
    ],
)
def test_a_wrong_change_is_told_of(recipe, tmp_path, changes, line):
    with pytest.raises(dz.UserError) as error:
        dz.train(recipe, **changes, **{"trainer.default_root_dir": tmp_path / "run"})
    assert line in str(error.value)


def test_errors_speak_of_arguments(tiny):
    with pytest.raises(dz.UserError, match=r"^`steps` is given without `sampler`; give both, e\.g\. `sampler=heun`"):
        dz.profile(tiny, steps=3)


def test_an_object_is_priced_as_its_name_is():
    denoiser = dz.create_denoiser("ddpm_digits", "vp")
    terms = {"counts_only": True, "sampler": "heun", "steps": 3}
    by_name = dz.profile("ddpm_digits", process="vp", **terms)
    for subject in (denoiser, [denoiser], dz.Run.of(denoiser)):
        (row,) = dz.profile(subject, **terms).rows()
        assert {**by_name.rows()[0], "name": "DDPM", "date": row["date"]} == row
    (row,) = dz.profile(denoiser.backbone, counts_only=True).rows()
    assert row["macs"] == dz.info("ddpm_digits").rows()[0]["macs"]
    assert next(denoiser.parameters()).device.type == "cpu"
    assert "MACs/image" in by_name._repr_html_()
    assert "plotly" in by_name._repr_html_()
    (line,) = by_name.plot()["data"]
    assert line["y"] == [call["macs"] for call in by_name.rows()[0]["trajectory"]]
    assert dz.profile("ddpm_digits", counts_only=True).plot() is None


def test_a_plot_needs_plotly_and_a_table_does_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    shown = dz.profile("ddpm_digits", counts_only=True, sampler="heun", steps=2)._repr_html_()
    assert "MACs/image" in shown
    assert "plotly" not in shown


def test_two_networks_are_compared_by_ratios():
    ratios = dz.profile(["ddpm_tiny", "adm_tiny"], compare=True, counts_only=True)
    a, b = (dz.info(name).rows()[0] for name in ("ddpm_tiny", "adm_tiny"))
    (row,) = ratios.rows()
    assert (row["macs_ratio"], row["params_ratio"]) == (b["macs"] / a["macs"], b["params"] / a["params"])
    assert "latency_ratio" not in row
    assert str(ratios).startswith("adm_tiny over ddpm_tiny")


def test_pricing_leaves_an_object_as_it_is():
    denoiser = dz.create_denoiser("ddpm_digits")
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    dz.profile(denoiser, device="cpu", dtype="float64", channels_last=True, runs=1)
    for name, value in denoiser.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    assert denoiser.training


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: dz.profile("ddpm_digitz"), "unknown denoiser 'ddpm_digitz'; did you mean ddpm_digits"),
        (lambda: dz.profile("ddpm_digits", count_only=True), "unknown argument 'count_only'; did you mean counts_only"),
        (lambda: dz.profile("ddpm_digits", compare=True), "`compare` takes two networks, not 1"),
        (lambda: dz.profile("ddpm_digits", sampler="heun"), "`sampler` is given without `steps`"),
        (lambda: dz.profile("ddpm_digits", counts_only=True, training=True), "`training` is measured"),
        (lambda: dz.evaluate(dz.create_denoiser("ddpm_digits")), "DDPM has no recipe that names its data; give data"),
        (
            lambda: dz.evaluate(dz.create_denoiser("ddpm_digits"), num=0),
            "`num` is 0; give a whole number of at least 1",
        ),
        (lambda: dz.evaluate("runs", smapler="heun"), "unknown argument 'smapler'; did you mean sampler"),
        (
            lambda: dz.evaluate(dz.create_denoiser("ddpm_digits"), dz.data.Photos(resolution=16), num=2),
            "DDPM makes images of shape (1, 16, 16), and those of photos are (3, 16, 16); give other data",
        ),
        (lambda: dz.search(dz.create_denoiser("ddpm_digits"), budget=0), "budget is [0]; give shares"),
        (lambda: dz.search(dz.create_denoiser("ddpm_digits")), "DDPM has one effort: there is nothing to choose"),
        (lambda: dz.compare(["digits/dppm"]), "unknown recipe 'digits/dppm'; did you mean"),
        (lambda: dz.compare(["digits/ddpm"], budget={"epochs": 1}), "unknown budget 'epochs'"),
        (lambda: dz.load("nowhere"), "there is no run nowhere"),
        (lambda: dz.Run.of(torch.nn.Identity()), "Identity has no network to evaluate and price"),
        (lambda: dz.profile(torch.nn.Identity()), "Identity has no network to evaluate and price; derive it from"),
        (lambda: dz.search(torch.nn.Identity()), "Identity has no network to evaluate and price; derive it from"),
    ],
)
def test_mistakes_are_told_in_one_line(call, line):
    with pytest.raises(dz.UserError) as error:
        call()
    assert str(error.value).startswith(line)


def test_what_is_compared_prints_as_a_table(recipe, tmp_path):
    terms = {"num": 8, "sampler": "euler", "steps": 2, "device": "cpu"}
    result = dz.compare([recipe], budget={"images": 64}, out=tmp_path / "out", **terms)
    (row,) = result.rows()
    assert (row["name"], row["card"]["train_steps"], row["error"]) == ("recipe", 2, None)
    assert result.report.is_file()
    assert "fd_pixels" in str(result)
    (points,) = result.plot()["data"]
    assert (points["x"], points["y"]) == ([row["costs"]["macs_per_image"]], [row["metrics"]["fd_pixels"]])


def test_a_search_draws_its_front():
    front = [{"cost_share": 1.0, "excess": 0.0}, {"cost_share": 0.4, "excess": 0.1}]
    plans = [{"plan": "exact 0.5", "cost_share": 0.4, "excess": 0.1}, {"plan": "nsga2", "cost_share": 0.3}]
    plot = SearchResult(None, front, plans, 1.0, 1, None, None, "latency").plot()
    drawn = {line["name"]: (line["x"], line["y"]) for line in plot["data"]}
    assert drawn == {
        "exact front": ([0.4, 1.0], [0.1, 0.0]), "exact 0.5": ([0.4], [0.1]), "nsga2": ([0.3], [None]),
    }  # fmt: skip
    assert plot["layout"]["xaxis"]["title"]["text"] == "share of full latency"


def test_a_copy_of_a_loaded_denoiser_shares_its_history(trained):
    import copy

    denoiser = dz.load(trained())
    denoiser.run.data()
    assert copy.deepcopy(denoiser).run is denoiser.run


def test_rows_become_a_frame_where_pandas_is(monkeypatch):
    class Frame(list):
        """What `pandas.DataFrame` is made of."""

    pandas = type("pandas", (), {"DataFrame": Frame})
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    (row,) = dz.info("ddpm_digits").to_pandas()
    assert (row["name"], row["params"]) == ("ddpm_digits", 558_265)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(dz.UserError, match="pandas is not installed"):
        dz.info("ddpm_digits").to_pandas()


def test_a_registered_class_is_found_by_its_name_without_a_list(monkeypatch):
    class Mine(dz.diffusion.EDM):
        pass

    monkeypatch.setitem(dz.diffusion.PROCESSES._items, "mine", Mine)
    assert dz.diffusion.Mine is Mine
    with pytest.raises(AttributeError, match="no attribute 'Theirs'"):
        dz.diffusion.Theirs  # noqa: B018
