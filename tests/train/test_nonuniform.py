"""Processes of many speeds and of two parts in the shared trainer: trained, sampled and priced like any other."""

import json
import re

import pytest
import torch

from denoisezoo import cli
from denoisezoo.archs import create_backbone, get_variant, list_denoisers
from denoisezoo.diffusion import CLD, MultiScale, NetworkDenoiser, SeedBlock, create_sampler
from denoisezoo.diffusion.langevin_preconditioning import MixedScore, Whitened
from denoisezoo.diffusion.preconditioning import V
from denoisezoo.diffusion.processes.scalar import VP
from denoisezoo.errors import UserError
from denoisezoo.plans import Plan
from denoisezoo.profiling.counting import count
from denoisezoo.profiling.trajectory import counting_copy, trace
from denoisezoo.runs.run import load_run
from denoisezoo.train.fit import train

MULTISCALE = {"resolution": 16, "levels": 1}


def multiscale(*more):
    return [
        "--model.denoiser", "multiscale_tiny", "--model.process", "MultiScale", "--model.process.resolution", "16",
        "--model.process.levels", "1", "--model.preconditioning", "V", "--model.objective", "Simple", *more,
    ]  # fmt: skip


def moved(before, after, prefix):
    keys = [key for key in before if key.startswith(prefix)]
    assert keys
    return any(not torch.equal(before[key], after[key]) for key in keys)


def test_all_stages_train_in_one_step(arguments, tmp_path):
    result = train(arguments(*multiscale("--trainer.max_steps", "3")))
    run = load_run(tmp_path / "run", "raw")
    fresh = train(arguments(*multiscale("--trainer.max_steps", "1"), folder="fresh"))
    assert (result.steps, fresh.steps) == (3, 1)
    before, after = load_run(tmp_path / "fresh", "raw").denoiser.state_dict(), run.denoiser.state_dict()
    assert moved(before, after, "backbone.stages.0.")
    assert moved(before, after, "backbone.stages.1.")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["train_macs"] > 0


def test_stages_in_turn_leave_the_others_and_their_averages_alone(arguments, tmp_path):
    """As the published training: step b trains stage b mod K, and nothing touches networks without a gradient."""
    states = {}
    for steps in (2, 3, 4):
        times = ["--model.objective.times", "OneStage", "--trainer.max_steps", steps]
        train(arguments(*multiscale(*times), folder=str(steps)))
        for weights in ("raw", "ema"):
            states[steps, weights] = load_run(tmp_path / str(steps), weights).denoiser.state_dict()
    for weights in ("raw", "ema"):
        for before, after, stage in ((2, 3, 0), (3, 4, 1)):
            one, two = states[before, weights], states[after, weights]
            assert [moved(one, two, f"backbone.stages.{i}.") for i in (0, 1)] == [stage == 0, stage == 1]
    assert moved(states[4, "raw"], states[4, "ema"], "backbone.stages.0.")


@pytest.mark.parametrize("preconditioning", ["Epsilon", "MixedScore", "Whitened"])
def test_langevin_diffusion_trains_and_samples(arguments, tmp_path, preconditioning):
    outputs = "2" if preconditioning == "Epsilon" else "1"
    words = ["--model.network.in_channels", "2", "--model.network.out_channels", outputs, "--model.process", "CLD"]
    words += ["--model.preconditioning", preconditioning, "--model.objective", "Simple"]
    train(arguments(*words, "--samples.every_n_steps", "4", "--samples.num", "4", "--samples.steps", "3"))
    assert (tmp_path / "run" / "samples" / "step_00000004.png").is_file()
    assert load_run(tmp_path / "run").image_shape == (1, 16, 16)
    assert cli.main(["sample", str(tmp_path / "run"), "--sampler", "gddim:q=2", "--steps", "4", "--num", "2"]) == 0


def test_one_channel_for_two_parts_is_refused(arguments):
    with pytest.raises(UserError, match="multiple of 2"):
        train(arguments("--model.process", "CLD", "--model.preconditioning", "Epsilon", "--model.objective", "Simple"))


def test_blurring_trains_and_samples(arguments, tmp_path):
    words = ["--model.process", "Blurring", "--model.process.resolution", "16", "--model.preconditioning", "V"]
    train(arguments(*words, "--model.objective", "Simple"))
    for sampler in ("gddim:q=3", "ddpm", "rk45:rtol=0.1,atol=0.1"):
        assert cli.main(["sample", str(tmp_path / "run"), "--sampler", sampler, "--steps", "5", "--num", "2"]) == 0


EFFORTS = {name: get_variant(name).efforts for name in list_denoisers() if "tiny" in get_variant(name).tags}
ELASTIC = list({efforts: name for name, efforts in EFFORTS.items() if len(efforts) > 1}.values())
"""A network for each tuple of efforts."""


@pytest.mark.parametrize("name", ELASTIC)
def test_elastic_networks_are_stages_trained_sampled_and_priced(name, arguments, tmp_path):
    """Widths, ODE steps and plans inside multi-scale stages."""
    words = multiscale("--model.network.base", f"[{name}]", "--model.effort", "random")
    train(arguments(*words, "--trainer.max_steps", "2"))
    run = load_run(tmp_path / "run")
    efforts = create_backbone(name).efforts
    assert run.denoiser.efforts == efforts
    plan, sampler = Plan((efforts[0], efforts[-1]), (-2.0,)), create_sampler("gddim")
    plan.check(run.denoiser.efforts)
    u_T = sampler.prior(run.denoiser.process, (1, *run.image_shape), 8, SeedBlock([0]))
    for denoiser, timed in ((run.denoiser, True), (counting_copy(run.denoiser), False)):
        calls = trace(denoiser, sampler, u_T, steps=8, plan=plan, generator=SeedBlock([0]), timed=timed).calls
        assert {call.effort for call in calls} == {efforts[0], efforts[-1]}
        assert len({call.macs for call in calls}) >= 3  # sizes times efforts
        assert max(call.macs for call in calls[:4]) < max(call.macs for call in calls[4:])


def alone(name, side):
    """MACs of a network by itself, at each of its efforts."""
    spec = {"resolution": side, "in_channels": 1, "out_channels": 1}
    with torch.device("meta"):
        net = create_backbone(name, **spec, num_classes=0, cond_channels=0, augment_dim=0).eval()
        x, c_noise = torch.empty(1, 1, side, side), torch.empty(1)
        return {effort: count(lambda effort=effort: net(x, c_noise, effort=effort)).macs for effort in net.efforts}


def test_a_slimmable_stage_and_a_stage_of_ode_blocks_under_a_plan(arguments, tmp_path):
    """One recipe has both: trained at all widths, searched, sampled and priced by its plan, call by call."""
    words = ["--model.network.base", "[slim_tiny,missing_u_tiny]", "--model.effort", "sandwich"]
    result = train(arguments(*multiscale(*words, "--trainer.max_steps", "3")))
    train(arguments(*multiscale(*words, "--trainer.max_steps", "1"), folder="fresh"))
    before, after = (load_run(tmp_path / name, "raw").denoiser.state_dict() for name in ("fresh", "run"))
    assert moved(before, after, "backbone.stages.0.")
    assert moved(before, after, "backbone.stages.1.")
    slim, ode = alone("slim_tiny", 16), alone("missing_u_tiny", 8)
    assert result.facts["train_macs"] > 0
    run, sampled = str(tmp_path / "run"), ["--sampler", "gddim", "--steps", "8"]
    plan = tmp_path / "plan.json"
    plan.write_text('{"efforts": [0.5, 1.0], "edges": [2.5]}')  # of the last four calls, two are at each width
    row = priced(run, *sampled, "--plan", str(plan), path=tmp_path / "row.json")
    expected = [ode[1.0]] * 4 + [slim[0.5]] * 2 + [slim[1.0]] * 2
    assert [call["macs"] for call in row["trajectory"]] == expected
    assert row["macs_per_image"] == sum(expected)
    assert [call["inner_nfe"] > 0 for call in row["trajectory"]] == [True] * 4 + [False] * 4
    assert priced(run, *sampled, path=tmp_path / "row.json")["macs_per_image"] == 4 * (ode[1.0] + slim[1.0])
    for name, more in (("planned", ["--plan", str(plan)]), ("full", []), ("again", ["--plan", str(plan)])):
        out = tmp_path / name
        assert cli.main(["sample", run, *sampled, *more, "--num", "2", "--out", str(out)]) == 0
    images = {name: (tmp_path / name / "000000.png").read_bytes() for name in ("planned", "full", "again")}
    assert images["planned"] == images["again"] != images["full"]
    search = ["search", run, *sampled, "--budget", "0.9", "--num", "20", "--batch-size", "20", "--images", "8"]
    assert cli.main([*search, "--json", str(tmp_path / "found.json")]) == 0
    found = {row["plan"]: row for row in json.loads((tmp_path / "found.json").read_text())}
    assert found["effort 1"]["macs_per_image"] == 4 * (ode[1.0] + slim[1.0])
    assert found["exact 0.9"]["macs_per_image"] <= 0.9 * found["effort 1"]["macs_per_image"]


def priced(run, *words, path):
    """The row of `profile` on the real walk; without a plan, the full network's."""
    assert cli.main(["profile", run, *words, "--counts-only", "--json", str(path)]) == 0
    return json.loads(path.read_text())[-1]


def test_the_trajectory_shows_the_stages():
    net = create_backbone("multiscale_digits")
    denoiser = NetworkDenoiser(net, MultiScale(16, levels=2), V())
    sampler = create_sampler("gddim")
    u_T = sampler.prior(denoiser.process, (1, 1, 16, 16), 6, SeedBlock([0]))
    assert u_T.shape == (1, 1, 4, 4)
    macs = [
        c.macs
        for c in trace(counting_copy(denoiser), sampler, u_T, steps=6, generator=SeedBlock([0]), timed=False).calls
    ]
    assert macs == [1258752] * 2 + [6360960] * 2 + [5984768] * 2


def test_wrong_stages_and_sizes_are_refused():
    net = create_backbone("multiscale_digits")
    with pytest.raises(UserError, match="3 stages"):
        NetworkDenoiser(net, MultiScale(16, levels=1), V())
    with pytest.raises(UserError, match="32"):
        NetworkDenoiser(net, MultiScale(32, levels=2), V())
    with pytest.raises(UserError, match="no stage for images of 12x12"):
        net(torch.zeros(1, 1, 12, 12), torch.zeros(1))
    with pytest.raises(UserError, match="CLD"):
        NetworkDenoiser(create_backbone("ddpm_digits", in_channels=2), CLD(), V())
    denoiser = NetworkDenoiser(net, MultiScale(16, levels=2), V())
    with pytest.raises(UserError, match="time_grid=process"):
        create_sampler("gddim:time_grid=quadratic")(denoiser, torch.zeros(1, 1, 4, 4), steps=9)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ({"base": ["ddpm_digits", "ddpm_digits"]}, "2 base networks for 3 stages"),
        ({"base": ["multiscale_tiny"]}, "multi-scale itself"),
        ({"base": ["ddpm_digitz"]}, "ddpm_digits"),
        ({"resolution": 18}, "halved"),
        ({"base": ["udpm_tiny"]}, "udpm_tiny changes the size of the image"),
    ],
)
def test_wrong_networks_are_refused(override, word):
    with pytest.raises(UserError, match=word):
        create_backbone("multiscale_digits", **override)


def test_a_multiscale_process_is_built_under_the_meta_device():
    with torch.device("meta"):
        process = MultiScale(16, levels=1, rescale=True)
    assert process.basis.scales.values.unique().tolist() == [0.5, 1.0]


def test_the_preconditioning_that_refuses_a_process_names_itself():
    for make in (MixedScore, Whitened):
        with pytest.raises(UserError, match=f"{make.__name__} needs .* not VP$|{make.__name__} needs .* not VP;"):
            make().check(VP())
        with pytest.raises(UserError, match=f"{make.__name__} needs .* not CLD with a sampled one"):
            make().check(CLD(velocity="sampled"))


def test_a_network_of_stages_is_priced_under_another_process_in_one_line(capsys):
    words = ["profile", "multiscale_tiny", "--sampler", "gddim", "--steps", "4", "--counts-only"]
    assert cli.main(words) == 2
    assert "--process" in capsys.readouterr().err
    assert cli.main([*words, "--process", "multiscale"]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--samples.sampler", "dpmpp_2m"], "sampler 'dpmpp_2m' cannot walk MultiScale"),
        (["--samples.sampler", "gddim", "--samples.steps", "1"], "1 steps for 2 stages"),
        (["--samples.sampler", "gddim:q=4", "--samples.steps", "3"], "q 4 is larger than steps 3"),
        (["--samples.sampler", "gddim:time_grid=quadratic"], "has no step at t = 0.5"),
    ],
)
def test_sample_grids_that_cannot_be_drawn_are_refused_before_anything_is_written(arguments, tmp_path, words, line):
    with pytest.raises(UserError, match=line):
        train(arguments(*multiscale("--samples.every_n_steps", "2", *words)))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_whose_time_is_over_keeps_what_its_training_cost(arguments, tmp_path):
    words = arguments("--trainer.max_steps", -1, "--trainer.max_time", "00:00:00:01", "--trainer.limit_val_batches", 0)
    first, again = train(words), train(words)
    assert again.steps == first.steps
    assert again.facts["train_macs"] == first.facts["train_macs"] > 0


LINES = {
    "gddim:q=5": "error: q 5 or lam 0.0 is out of range",
    "gddim:q=4": "error: q 4 is larger than steps 3",
    "ddpm": "error: sampler 'ddpm' cannot walk CLD",
}


def test_mistakes_are_one_line_and_status_2(arguments, tmp_path, capsys):
    words = ["--model.network.in_channels", "2", "--model.network.out_channels", "2", "--model.process", "CLD"]
    train(arguments(*words, "--model.preconditioning", "Epsilon", "--model.objective", "Simple"))
    for sampler, line in LINES.items():
        sampled = ["sample", str(tmp_path / "run"), "--sampler", sampler, "--steps", "3", "--num", "2"]
        assert refused(sampled, capsys).startswith(line)


def refused(words, capsys):
    """The one line that a command says on standard error."""
    capsys.readouterr()
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model.process.ends", "[0.5,0.3,1.0]"], r"ends \[0.5, 0.3, 1.0\] do not increase"),
        (["--model.process.resolution", "18"], "size 18x18 cannot be halved 2 times; use multiples of 4"),
        (["--model.network.resolution", "18"], "resolution 18 cannot be halved 2 times"),
        (["--samples.sampler", "gddim:q=4", "--samples.steps", "3"], "q 4 is larger than steps 3"),
        (["--samples.sampler", "gddim", "--samples.steps", "2"], "2 steps for 3 stages"),
        (["--samples.sampler", "dpmpp_2m"], "sampler 'dpmpp_2m' cannot walk MultiScale"),
    ],
)
def test_recipes_that_cannot_be_are_refused_in_one_line(words, line, tmp_path, capsys):
    home = ["--trainer.default_root_dir", str(tmp_path / "bad")]
    assert re.match("error: .*" + line, refused(["train", "--config", "digits/multiscale", *words, *home], capsys))
    assert not (tmp_path / "bad").exists()
