"""Sampler names, options, plans, hooks, and the walk that all of them share."""

import itertools
import typing
from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from denoisezoo.diffusion import (
    CLD,
    GRIDS,
    SAMPLERS,
    Blurring,
    Denoiser,
    Diagonal,
    MultiScale,
    Prediction,
    create_sampler,
)
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers import Caller, GridSampler, transfer
from denoisezoo.errors import ComputationError, UserError
from denoisezoo.nn.given import NOTHING, Given

from .conftest import SHAPE


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("hevn", "heun"),
        ("ddim:etta=1", "eta"),
        ("ddim:eta=two", "number"),
        ("ddim:eta=3", "eta"),
        ("ddpm:variance=medium", "variance"),
        ("ddpm:clip=perhaps", "true or false"),
        ("edm:S_churn=-1", "S_churn"),
        ("edm:sigma_min=10,sigma_max=1", "sigma_min 10 and sigma_max 1"),
        ("edm:sigma_min=0", "sigma_min"),
        ("edm:sigma_min=90", "sigma_min 90"),
        ("edm:S_min=2,S_max=1", "S_min 2"),
        ("edm:S_noise=-1", "S_noise"),
        ("edm:S_max=-inf", "S_max"),
        ("gddim:lam=inf", "lam"),
    ],
)
def test_wrong_specs_say_what_is_right(spec, word):
    with pytest.raises(UserError, match=word):
        create_sampler(spec)


def numbers():
    """Every option of every sampler that is a number with a point."""
    for name, sampler in SAMPLERS.items():
        for option, hint in typing.get_type_hints(sampler).items():
            if hint in (float, float | None):
                yield name, option


@pytest.mark.parametrize(("name", "option"), list(numbers()))
def test_no_option_is_nan(name, option):
    with pytest.raises(UserError, match=option) as caught:
        create_sampler(f"{name}:{option}=nan")
    assert "\n" not in str(caught.value)


def test_levels_that_the_network_leaves_nothing_of_are_refused():
    with pytest.raises(UserError, match="sigma_min 90 is not below sigma_max 100"):
        create_sampler("edm:sigma_min=90,sigma_max=100").grid(EDM(), 4)
    with pytest.raises(UserError, match="no level of iddpm"):
        create_sampler("edm:discretization=iddpm,sigma_min=1,sigma_max=1.00001").grid(EDM(), 4)


@pytest.mark.parametrize("times", [[0.5, 1.0, 0.0], [float("nan"), 0.5, 0.0], [float("inf"), 0.5, 0.0]])
def test_a_walk_that_does_not_fall_is_refused(times):
    GRIDS.add(name := f"wrong_{len(GRIDS)}_of_test", lambda process, steps: torch.tensor(times, dtype=torch.float64))
    with pytest.raises(UserError, match="do not fall"):
        create_sampler(f"ddim:time_grid={name}").prior(VP(), (1, *SHAPE), 2)


@pytest.mark.parametrize("rounding", [1 - 1e-12, 1 + 1e-12])
def test_times_that_differ_by_rounding_are_the_same(rounding):
    """A stage that begins at 0.5 is not stepped across, and the prior of a flow has no signal."""
    process = MultiScale(levels=1, ends=[0.5, 1.0])
    times = torch.tensor([1.0, 0.75, 0.5 * rounding, 0.25, 0.0], dtype=torch.float64)
    GRIDS.add(name := f"rounded_{len(GRIDS)}_of_test", lambda process, steps: times)
    grid = create_sampler(f"ddim:time_grid={name}").checked_grid(process, 4)
    assert grid[2] == 0.5
    denoiser = Recorder(process)
    sampler = create_sampler(f"ddim:time_grid={name}")
    sampler(denoiser, sampler.prior(process, (1, 1, process.resolution, process.resolution), 4), steps=4)
    GRIDS.add(name := f"rounded_{len(GRIDS)}_of_test", lambda process, steps: times[[0, 1, 4]] * rounding)
    assert create_sampler(f"ddim:time_grid={name}").checked_grid(RectifiedFlow(), 2)[0] == 1


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_no_steps_is_refused(gaussian, name, steps):
    truth = gaussian(EDM())
    with pytest.raises(UserError, match="steps"):
        create_sampler(name)(truth.oracle, torch.zeros(1, *SHAPE), steps=steps)


def test_unknown_time_grid_names_the_nearest(gaussian):
    truth = gaussian(EDM())
    with pytest.raises(UserError, match="quadratic"):
        create_sampler("ddim:time_grid=quadratc")(truth.oracle, torch.zeros(1, *SHAPE), steps=3)


class Recorder(Denoiser):
    """Records how it was called; predicts zero."""

    def __init__(self, process):
        super().__init__()
        self.process, self.calls = process, []

    def forward(self, u_t, t, given=NOTHING, effort=None):
        self.calls.append((t.clone(), given, effort))
        return Prediction(torch.zeros_like(u_t), u_t)


class HalfPlan:
    """Half the network while there is more noise than signal."""

    def effort(self, log_snr):
        return 0.5 if log_snr < 0 else 1.0


def walks(name, process):
    """Whether a sampler takes a process."""
    try:
        create_sampler(name).check(process)
    except UserError:
        return False
    return True


GENERAL = [name for name in SAMPLERS if walks(name, VP())]


def test_all_samplers_but_that_of_another_chain_walk_scalar_processes():
    assert {name for name in SAMPLERS if not walks(name, VP())} == {"udpm"}


@dataclass(frozen=True)
class Outside(GridSampler):
    """DDIM as another package writes it, with an option of every kind; it keeps what it was told of every step."""

    times: int = 1
    most: int | None = None
    share: float | None = None
    form: Literal["a", "b"] | None = None
    told: typing.ClassVar[list] = []

    def step(self, call, u, t, s, history, generator):
        self.told.append((float(t), float(s), u.shape[-1], [*history]))
        history.append(float(t))
        return transfer(call.process, call(u, t), s)


@pytest.fixture
def outside():
    """Its name; a class that is registered in any module is a sampler like those of the package."""
    if "outside_of_test" not in SAMPLERS:
        SAMPLERS.register("outside_of_test")(Outside)
    Outside.told.clear()
    return "outside_of_test"


def test_a_sampler_of_another_package_is_created_from_text(outside):
    sampler = create_sampler(f"{outside}:times=3,most=4,share=0.5,form=b,time_grid=edm")
    assert sampler == Outside(times=3, most=4, share=0.5, form="b", time_grid="edm")
    assert isinstance(sampler.most, int)
    assert sampler.name == outside
    for wrong, word in [("tims=1", "times"), ("most=4.5", "whole number"), ("share=nan", "share"), ("form=c", "a")]:
        with pytest.raises(UserError, match=word):
            create_sampler(f"{outside}:{wrong}")
    with pytest.raises(UserError, match=f"did you mean {outside}"):
        create_sampler("outside_of_tests")


def test_the_walk_hands_each_step_its_times_state_and_history(outside):
    """Coefficients have entered before the step from where they do, and what is older is forgotten."""
    process = MultiScale(levels=1, ends=[0.5, 1.0])
    denoiser, sampler, side = Recorder(process), create_sampler(outside), process.resolution
    u_T = sampler.prior(process, (2, 1, side, side), 6)
    assert u_T.shape[-1] == side // 2
    result = sampler(denoiser, u_T, steps=6)
    times = result.grid.tolist()
    assert [(t, s) for t, s, *_ in Outside.told] == list(itertools.pairwise(times[:-1]))  # the last is no step
    entered = times.index(0.5)
    assert [size for *_, size, _ in Outside.told] == [side // 2] * entered + [side] * (5 - entered)
    assert [history for *_, history in Outside.told] == [
        times[0 if n < entered else entered : n] for n in range(len(times) - 2)
    ]
    assert [float(t[0]) for t, *_ in denoiser.calls] == times[:-1]
    assert not result.images.any()  # what is predicted at the last time


def test_the_walk_ends_with_the_prediction_that_a_sampler_clips(gaussian):
    truth = gaussian(EDM())
    truth.oracle.means.mul_(10)
    for spec in ("ddpm", "ddim:clip=true", "gddim:clip=true", "dpmpp_2m_sde:clip=true"):
        assert walked(truth, spec).abs().max() == 1
        assert walked(truth, f"{spec.partition(':')[0]}:clip=false").abs().max() > 1


@pytest.mark.parametrize("name", GENERAL)
def test_plan_label_and_condition_reach_every_call(name):
    denoiser, sampler = Recorder(VP()), create_sampler(name)
    label, cond = torch.tensor([1, 2]), torch.ones(2, 1, 2, 2)
    u_T = sampler.prior(denoiser.process, (2, *SHAPE), 6)
    sampler(denoiser, u_T, steps=6, plan=HalfPlan(), given=Given(label=label, image=cond))
    efforts = [effort for *_, effort in denoiser.calls]
    for t, given, effort in denoiser.calls:
        assert t.dtype == torch.float64
        assert t.shape == (2,)
        assert given.label is label
        assert given.image is cond
        # Images of an adaptive sampler are at times of their own; each effort is asked that any of them needs.
        assert effort in {HalfPlan().effort(log_snr) for log_snr in denoiser.process.log_snr(t).tolist()}
        assert name == "rk45" or len(t.unique()) == 1
    assert set(efforts) == {0.5, 1.0}


@pytest.mark.parametrize("spec", ["ddpm", "ddim", "heun", "edm", "edm:S_churn=30", "edm:discretization=iddpm"])
def test_discrete_networks_are_only_asked_at_whole_times(spec):
    denoiser, sampler = Recorder(VPDiscrete()), create_sampler(spec)
    generator = torch.Generator().manual_seed(0)
    sampler(denoiser, sampler.prior(denoiser.process, (1, *SHAPE), 18), steps=18, generator=generator)
    times = torch.cat([t for t, *_ in denoiser.calls])
    assert torch.equal(times, times.round())
    assert times.min() >= 1
    assert times.max() <= 1000


def test_edm_limits_are_clamped_to_the_network():
    sampler = create_sampler("edm")
    low, high = sampler.limits(VPDiscrete())
    assert low == pytest.approx(0.0100005, rel=1e-5)
    assert high == 80
    assert create_sampler("edm:discretization=vp").limits(VPDiscrete())[1] == pytest.approx(152.16697)
    assert create_sampler("edm:sigma_max=20").limits(EDM()) == (0.002, 20.0)


def test_iterates_keep_their_dtype():
    for dtype in (torch.float32, torch.float64):
        for name in GENERAL:
            denoiser, sampler = Recorder(EDM()), create_sampler(name)
            u_T = sampler.prior(denoiser.process, (1, *SHAPE), 4, dtype=dtype)
            assert u_T.dtype == sampler(denoiser, u_T, steps=4).images.dtype == dtype


def test_a_predictor_cannot_begin_where_no_signal_is_left(gaussian):
    """There x = u/alpha is infinite; on a grid that begins later it walks."""
    truth = gaussian(RectifiedFlow())
    with pytest.raises(UserError, match="'pc' cannot begin RectifiedFlow at t = 1") as caught:
        walked(truth, "pc")
    assert "\n" not in str(caught.value)
    assert walked(truth, "pc:time_grid=edm").isfinite().all()


def walked(truth, spec):
    sampler = create_sampler(spec)
    return sampler(truth.oracle, truth.start(sampler, 8), steps=8).images


def test_runge_kutta_ends_at_once_where_a_network_is_not_finite(gaussian):
    truth, calls = gaussian(EDM()), []

    def broken(u, t, *given):
        calls.append(float(t[0]))
        return Prediction(u * float("nan"), u)

    truth.oracle.forward = broken
    with pytest.raises(ComputationError, match="error is nan"):
        walked(truth, "rk45")
    assert len(calls) == 7  # one at the start, and six for a step


@pytest.mark.parametrize("name", [name for name in GENERAL if name != "rk45"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_leaves_no_walk(gaussian, name, value):
    """Clipping would hide an infinity, and pixels show NaN as black."""
    truth, calls = gaussian(EDM()), []
    exact = truth.oracle.forward

    def overflowing(u, t, *told):
        prediction = exact(u, t, *told)
        calls.append(float(t[0]))
        if len(calls) == 2:
            prediction.u_0[1] = value
        return prediction

    truth.oracle.forward = overflowing
    with pytest.raises(ComputationError, match=r"1 of 8 images .* call 2 of .* at t = ") as caught:
        walked(truth, f"{name}:clip=true" if name in {"ddpm", "ddim"} else name)
    assert f"at t = {calls[1]:g}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runge_kutta_gives_an_image_whatever_its_batch(gaussian):
    """Steps are chosen for each image; those of a batch as a whole would move an image by the tolerance."""
    truth, sampler = gaussian(EDM()), create_sampler("rk45:rtol=0.01,atol=0.01")
    u_T = truth.start(sampler, 4, n=6) * torch.tensor([1.0, 0.1, 3.0, 1.0, 0.01, 1.0]).reshape(-1, 1, 1, 1)
    together = sampler(truth.oracle, u_T, steps=4)
    alone = [sampler(truth.oracle, u_T[i : i + 1], steps=4) for i in range(6)]
    torch.testing.assert_close(together.images, torch.cat([one.images for one in alone]), atol=1e-12, rtol=0)
    assert len({one.nfe for one in alone}) > 1
    assert together.nfe == max(one.nfe for one in alone)


def test_images_at_times_of_their_own_have_efforts_of_their_own():
    """By a plan an image has what its noise level needs, whatever the others are at."""

    class Shifting(Recorder):
        def forward(self, u_t, t, given=NOTHING, effort=None):
            return Prediction(u_t * effort, u_t)

    process = VP()
    denoiser, t = Shifting(process), torch.tensor([0.9, 0.1, 0.8], dtype=torch.float64)
    call = Caller(denoiser, 1, HalfPlan(), NOTHING, None)
    assert call(torch.ones(3, *SHAPE), t).u_0.flatten(1).mean(1).tolist() == [0.5, 1.0, 0.5]
    assert call.nfe == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda x: MultiScale(band_std=[x, 1.0, 1.0]),
        lambda x: MultiScale(highest=x),
        lambda x: MultiScale(lowest=-x),
        lambda x: MultiScale(ends=[0.2, 0.5, x]),
        lambda x: Blurring(blur=x),
        lambda x: CLD(beta_min=x),
        lambda x: CLD(start=(x, 1.0)),
        lambda x: Diagonal([[x, -10.0]]),
        lambda x: VP(beta_max=x),
        lambda x: EDM(sigma_max=x),
        lambda x: RectifiedFlow(shift=x),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(make, value):
    with pytest.raises(UserError, match="give finite numbers") as caught:
        make(value)
    assert "\n" not in str(caught.value)


def test_bands_that_end_after_the_prior_are_refused():
    with pytest.raises(UserError, match="beyond 1"):
        MultiScale(levels=1, ends=[0.5, 1.5])
