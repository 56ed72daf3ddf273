"""The flow map out of the tree: its price by hand, its derivative by differences, by command line and by Python."""

import json

import pytest
import torch

import denoisezoo as dz
from denoisezoo import cli
from denoisezoo.archs.variants import _VARIANTS
from denoisezoo.diffusion import OBJECTIVES, SAMPLERS, Step
from denoisezoo.profiling.counting import count

N, W = 16 * 16, 8  # pixels, channels inside
FIRST, MIDDLE, LAST = 9 * N * W, 9 * N * W * W, 9 * N * W
TIMES = (2 * W, W * W)
FORWARD = FIRST + MIDDLE + LAST + sum(TIMES)
# torch pushes a layer's input and its weight forward, two products, though the weight's tangent is zero.
TANGENT = 2 * FORWARD
# Gradients of all weights, and of all inputs but the state and the times themselves.
BACKWARD = 2 * FORWARD - FIRST - TIMES[0]
STEP = FORWARD + TANGENT + BACKWARD


@pytest.fixture(scope="module")
def flow_map():
    """The example, registered for the length of these tests."""
    dz.list_denoisers()
    tables = (_VARIANTS, OBJECTIVES, SAMPLERS)
    before = [(dict(table._items), dict(table._origin)) for table in tables]
    import tests.examples.flow_map as example

    for table, name in zip(tables, ("flow_map_tiny", "own_mean_flow", "jump"), strict=True):
        assert name in table
    yield example
    for table, (items, origin) in zip(tables, before, strict=True):
        table._items, table._origin = items, origin


@pytest.fixture
def denoiser(flow_map):
    """The example's network under rectified flow."""
    torch.manual_seed(0)
    return dz.create_denoiser("flow_map_tiny", "flow")


def test_a_step_costs_what_is_counted_by_hand(flow_map, denoiser):
    assert dz.info("flow_map_tiny").variant.costs[0].macs == FORWARD
    objective = flow_map.OwnMeanFlow()
    assert objective.cost(denoiser, lambda call: count(call).macs) == STEP
    # The same of a step that is taken.
    step = Step(denoiser, {"image": torch.randn(1, 1, 16, 16)}, torch.Generator().manual_seed(0))
    assert count(lambda: objective(step).loss.backward()).macs == STEP


def test_its_derivative_is_that_of_differences(flow_map, denoiser):
    denoiser.double()
    u, v = torch.randn(2, 3, 1, 16, 16, dtype=torch.float64)
    t, s = torch.tensor([[0.3, 0.5, 0.9], [0.2, 0.5, 0.1]], dtype=torch.float64)

    def velocity(u, t, s):
        return denoiser.velocity(u, t, dz.Given(until=s))

    directions = (v, torch.ones_like(t), -torch.ones_like(s))
    _, found = torch.func.jvp(velocity, (u, t, s), directions)
    h = 1e-5
    ahead, behind = (velocity(*(x + h * d for x, d in zip((u, t, s), directions, strict=True))) for h in (h, -h))
    torch.testing.assert_close(found, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(velocity(u, t, s), velocity(u, t, t))  # the second time is told


def test_a_network_without_a_second_time_is_refused(flow_map):
    with pytest.raises(dz.UserError, match="second time"):
        flow_map.OwnMeanFlow().check(dz.create_denoiser("ddpm_digits", "flow"))


def test_it_is_trained_and_sampled_by_commands(flow_map, tmp_path, capsys):
    recipe = tmp_path / "flow_map.yaml"
    recipe.write_text(
        "imports: [tests.examples.flow_map]\nmodel:\n  denoiser: flow_map_tiny\n  process: RectifiedFlow\n"
        "  preconditioning: Velocity\n  objective: tests.examples.flow_map.OwnMeanFlow\n"
        "data:\n  class_path: Digits\n  init_args: {batch_size: 16}\n"
        f"trainer: {{max_steps: 2, accelerator: cpu, val_check_interval: 2, default_root_dir: {tmp_path / 'run'}}}\n"
        "samples: {every_n_steps: 0}\n"
    )
    assert cli.main(["train", "--config", str(recipe)]) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["train_macs"] == 2 * 16 * STEP
    words = ["sample", str(tmp_path / "run"), "--num", "4", "--sampler", "jump", "--steps", "1", "--device", "cpu"]
    assert cli.main(words) == 2
    assert "not trusted" in capsys.readouterr().err
    assert cli.main([*words, "--trust", "tests"]) == 0


def test_it_is_fitted_sampled_and_loaded_in_python(flow_map, denoiser, tmp_path):
    options = {"steps": 2, "seed": 1, "out": tmp_path / "run", "trainer": {"accelerator": "cpu"}}
    run = dz.fit(denoiser, flow_map.OwnMeanFlow(share=0.5), torch.rand(32, 1, 16, 16) * 2 - 1, batch_size=16, **options)
    assert run.facts["train_macs"] == 2 * 16 * STEP
    one, two = (run.denoiser.sample(2, sampler="jump", steps=steps, progress=False).images for steps in (1, 2))
    assert one.shape == (2, 1, 16, 16)
    assert not torch.equal(one, two)
    again = dz.load(tmp_path / "run", trust=("tests",))
    ours, theirs = again.state_dict(), run.denoiser.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(theirs["backbone.first.weight"], denoiser.state_dict()["backbone.first.weight"])
