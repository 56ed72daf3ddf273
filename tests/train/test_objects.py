"""Training without a recipe: the weights of the recipe, resumed, loaded again, refused."""

import pytest
import torch

import denoisezoo as dz
from denoisezoo.diffusion import EDM, NOTHING, LogitNormalTimes, RectifiedFlow, Simple
from denoisezoo.runs.run import load_run
from denoisezoo.train.fit import train
from denoisezoo.train.training_module import TrainingModule

SIMPLE = Simple()
CPU = {"trainer": {"accelerator": "cpu", "limit_val_batches": 0}}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Counting takes most of the time of such short runs."""
    monkeypatch.setattr(TrainingModule, "training_macs", lambda self: 1)


def equal(a, b):
    """Whether two denoisers have the same weights."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def make(seed=0):
    """A small denoiser."""
    torch.manual_seed(seed)
    return dz.create_denoiser("ddpm_digits", RectifiedFlow(t_min=2e-3), multipliers=(1, 2), attention=())


@pytest.fixture
def images():
    """24 images (24, 1, 16, 16)."""
    return torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Same(dz.Backbone):
    """A network of one layer, whose argument a file can hold."""

    def __init__(self, config: dz.BackboneConfig, width: int = 4) -> None:
        super().__init__(config)
        self.inside = torch.nn.Conv2d(1, width, 1)
        self.out = torch.nn.Conv2d(width, 1, 1)

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        return self.out(self.inside(x))


class Wrapped(Same):
    """One that is made of a network, which no file can hold."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(GREY)
        self.network = network


GREY = dz.BackboneConfig(in_channels=1, out_channels=1, resolution=16)


def test_it_is_what_the_recipe_trains(tmp_path):
    words = ["--config", "digits/ddpm", "--trainer.accelerator", "cpu", "--trainer.max_steps", "2"]
    words += ["--trainer.default_root_dir", str(tmp_path / "recipe"), "--samples.every_n_steps", "0"]
    words += ["--data.init_args.batch_size", "8", "--trainer.limit_val_batches", "0"]
    words += ["--model.network.multipliers", "[1, 2]", "--model.network.attention", "[]"]
    words += ["--model.process.t_min", "0.002"]
    train(words)
    run = dz.fit(
        make(),
        Simple(LogitNormalTimes(stratified=True)),
        dz.data.Digits(batch_size=8),
        steps=2,
        optimizer={"betas": (0.9, 0.99), "warmup_steps": 30, "schedule": "cosine"},
        lr=2e-3,
        out=tmp_path / "fit",
        ema={"half_life": 5000, "ramp_up": 0.1},
        trainer=CPU["trainer"] | {"gradient_clip_val": 1.0},
    )
    theirs = load_run(tmp_path / "recipe")
    assert equal(run.denoiser, theirs.denoiser)
    assert not equal(run.denoiser, make())
    keys = ("train_steps", "images_seen", "seed")
    assert [run.facts[key] for key in keys] == [theirs.facts[key] for key in keys] == [2, 16, 0]
    again = dz.load(tmp_path / "fit")  # of classes that the file names
    assert equal(again, run.denoiser)
    assert (again.run.name, again.process.t_min, again.run.data().title) == ("ddpm_digits", 2e-3, "digits")


def test_the_same_call_goes_on(images, tmp_path):
    def fit(steps, folder, seed=0, data=images, objective=SIMPLE):
        return dz.fit(make(seed), objective, data, steps=steps, batch_size=8, out=tmp_path / folder, **CPU)

    whole = fit(2, "whole")
    fit(1, "broken")
    broken = fit(2, "broken", seed=1)  # the weights are those of the checkpoint
    assert equal(whole.denoiser, broken.denoiser)
    assert broken.facts["train_steps"] == 2
    assert equal(fit(2, "whole").denoiser, whole.denoiser)  # there is nothing left to do
    with pytest.raises(dz.UserError, match="data source have changed"):
        fit(3, "whole", data=-images)
    with pytest.raises(dz.UserError, match=r"another model.objective"):
        fit(3, "whole", objective=dz.diffusion.EDMLoss())


def test_a_run_of_objects_is_evaluated_and_says_what_it_lacks(images, tmp_path):
    denoiser = make()
    run = dz.fit(denoiser, Simple(), images, steps=1, batch_size=8, out=tmp_path, **CPU)
    assert equal(denoiser, make())
    assert denoiser.training
    card = dz.evaluate(run, num=8, sampler="euler", steps=1, device="cpu", progress=False).card
    assert (card.dataset, card.train_steps, card.weights) == ("source", 1, "ema")
    with pytest.raises(dz.UserError, match="no recipe that names its data; give data"):
        dz.evaluate(tmp_path, num=8, sampler="euler", steps=1)


def test_own_classes_are_loaded_with_trust(images, tmp_path):
    denoiser = dz.create_denoiser(Same(GREY, width=6), EDM())
    run = dz.fit(denoiser, Simple(), images, steps=1, out=tmp_path, **CPU)
    assert (run.name, run.family) == ("Same", "Same")
    with pytest.raises(dz.UserError, match="whose code is not trusted"):
        dz.load(tmp_path)
    assert equal(dz.load(tmp_path, trust=("tests",)), run.denoiser)


def test_what_no_file_can_name_is_loaded_into(images, tmp_path):
    def build():
        return dz.create_denoiser(Wrapped(torch.nn.Linear(2, 2)), EDM())

    run = dz.fit(build(), Simple(), images, steps=1, out=tmp_path, **CPU)
    with pytest.raises(dz.UserError, match=r"built by hand, of a Linear.*load\(path, into=denoiser\)") as caught:
        dz.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert equal(dz.load(tmp_path, into=build()), run.denoiser)
    with pytest.raises(dz.UserError, match="do not fit"):
        dz.load(tmp_path, into=make())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"effrt": "full"}, "unknown argument 'effrt'; did you mean effort"),
        ({"trainer": {"max_step": 3}}, "unknown key 'trainer.max_step"),
        ({"optimizer": {"beta": 1}}, "unknown field of optimizer 'beta'"),
        ({"optimizer": "adamm"}, "adam"),
        ({"batch_size": 25}, "batch_size 25 is larger"),
        ({"data": torch.zeros(8, 3, 16, 16)}, "takes images of 1 channels, and source has 3"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_a_line(images, tmp_path, options, words):
    with pytest.raises(dz.UserError, match=words) as caught:
        dz.fit(
            **{"denoiser": make(), "objective": Simple(), "data": images, "steps": 1, "out": tmp_path} | CPU | options
        )
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value).partition("`")[0]  # what follows is a command
