"""Objectives for few calls against truth: Gaussian data, whose flow map is known in closed form."""

import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.forward_ad import unpack_dual

import denoisezoo as dz
from denoisezoo.archs.discriminator import Discriminator, DiscriminatorConfig
from denoisezoo.diffusion import (
    EDM,
    VP,
    AdversarialDistillation,
    Blurring,
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    Denoiser,
    EasyConsistency,
    GuidanceDistillation,
    MeanFlow,
    Prediction,
    ProgressiveDistillation,
    RectifiedFlow,
    Reflow,
    Shortcut,
    Step,
    UniformTimes,
    create_denoiser,
    create_sampler,
)
from denoisezoo.diffusion.coefficients import aligned, over_images
from denoisezoo.diffusion.objectives.adversarial import opposing_loss
from denoisezoo.diffusion.objectives.few_calls import image_of
from denoisezoo.diffusion.samplers import SAMPLERS
from denoisezoo.errors import UserError
from denoisezoo.nn.forward_mode import has_tangent
from denoisezoo.nn.given import NOTHING
from denoisezoo.profiling.counting import count
from denoisezoo.studies.semigroup import semigroup_study

f64 = torch.float64
SIDE = 4
SHAPE = (1, SIDE, SIDE)
PROCESSES = {"vp": VP(), "edm": EDM(), "flow": RectifiedFlow(), "blurring": Blurring(blur=2.0, resolution=SIDE)}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


class GaussianMap(Denoiser):
    """The exact flow map of data N(mean, variance): what carries deviations is sqrt(alpha^2 variance + sigma^2)."""

    second_time, cond_shape = True, None

    def __init__(self, process, variance=0.3, wrong=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.process, self.variance, self.wrong = process, variance, wrong
        self.register_buffer("mean", torch.randn(SHAPE, generator=generator, dtype=f64))
        self.scale = nn.Parameter(torch.ones((), dtype=f64))

    def flow(self, u, t, s):
        """Exact states at s."""
        alpha_t, sigma_t, alpha_s, sigma_s = aligned(*self.process.alpha_sigma(t), *self.process.alpha_sigma(s))
        ratio = ((alpha_s**2 * self.variance + sigma_s**2) / (alpha_t**2 * self.variance + sigma_t**2)).sqrt()
        return over_images(alpha_s, u) * self.mean + over_images(ratio, u) * (u - over_images(alpha_t, u) * self.mean)

    def forward(self, u_t, t, given=NOTHING, effort=None):
        alpha, sigma = (over_images(x, u_t) for x in self.process.alpha_sigma(t))
        s = t if given.until is None else given.until.to(t)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        here = self.mean + gain * (u_t - alpha * self.mean)  # the posterior mean, where s = t
        apart = (s < t).reshape(-1, 1, 1, 1)
        there = image_of(
            self.process, u_t, t, self.flow(u_t, t, torch.where(s < t, s, 0.5 * t)), torch.where(s < t, s, 0.5 * t)
        )
        u_0 = self.scale * torch.where(apart, there, here) + self.wrong * sigma / (1 + sigma)
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


def step_of(denoiser, number=0, average=None, variance=0.3, images=64):
    """A step on images of the denoiser's data."""
    generator = torch.Generator().manual_seed(number + 1)
    image = denoiser.mean + variance**0.5 * torch.randn(images, *SHAPE, generator=generator, dtype=f64)
    image = denoiser.process.basis.decode(image)
    return Step(denoiser, {"image": image}, generator, number=number, average=average)


def ready(objective, teacher):
    """An objective whose teacher, and whose student of the round before, are a denoiser."""
    objective.learn_from(teacher)
    objective.modules(teacher)
    return objective


TAUGHT = {
    "progressive": lambda: ProgressiveDistillation(steps=8, every=10),
    "distillation": lambda: ConsistencyDistillation(points=6, averaged=False, huber=0.0),
    "easy": lambda: EasyConsistency(every=10, k=2.0),
}


@each_process
@pytest.mark.parametrize("name", TAUGHT)
def test_the_exact_map_has_no_loss_and_another_has_one(process, name):
    exact = GaussianMap(process)
    objective = ready(TAUGHT[name](), copy.deepcopy(exact))
    for number in (0, 1, 15, 39):  # rounds, and stages
        found = objective(step_of(exact, number))
        assert found.per_sample.max() < 1e-12
        assert found.loss < 1e-6
    assert objective(step_of(GaussianMap(process, wrong=1.0), 39)).per_sample.mean() > 1e-6


@pytest.mark.parametrize("process", [EDM(), RectifiedFlow()])
@pytest.mark.parametrize("derivative", ["jvp", "difference"])
def test_the_mean_velocity_of_the_exact_map_has_no_loss(process, derivative):
    exact = GaussianMap(process)
    objective = ready(MeanFlow(UniformTimes(), derivative=derivative, step=1e-5), copy.deepcopy(exact))
    found = objective(step_of(exact))
    assert found.per_sample.max() < (1e-12 if derivative == "jvp" else 1e-7)
    assert objective(step_of(GaussianMap(process, wrong=1.0))).per_sample.mean() > 1e-6


@pytest.mark.parametrize("process", [EDM(), RectifiedFlow()])
@pytest.mark.parametrize(
    "objective",
    [ConsistencyTraining(total=100, s0=4, s1=16, huber=0.0), EasyConsistency(every=10), MeanFlow(UniformTimes())],
    ids=lambda objective: type(objective).__name__,
)
def test_without_a_teacher_the_map_of_a_single_image_has_no_loss(process, objective):
    """Data of one point: the sample's own path is the flow's."""
    exact = GaussianMap(process, variance=0.0)
    for number in (0, 60):
        assert objective(step_of(exact, number, variance=0.0)).per_sample.max() < 1e-12
    assert objective(step_of(GaussianMap(process, variance=0.0, wrong=1.0), 60, variance=0.0)).per_sample.mean() > 1e-6


class _Seeing(Denoiser):
    """Keeps the states that it is asked about."""

    second_time = True

    def __init__(self, within, seen):
        super().__init__()
        self.process, self.mean, self.within, self.seen = within.process, within.mean, within, seen

    def forward(self, u_t, t, given=NOTHING, effort=None):
        if not has_tangent(u_t):
            self.seen.append(u_t.detach())
        return self.within(u_t, t, given)


class Fixed(UniformTimes):
    """0.7 and 0.2 of the way, in turn."""

    def __call__(self, process, uniform):
        self.share = 0.9 - getattr(self, "share", 0.2)
        return torch.full_like(uniform, process.t_min + self.share * (process.t_max - process.t_min))


@pytest.mark.parametrize("tangent", ["sample", "network"])
def test_without_a_teacher_the_mean_flow_of_gaussian_data_errs_on_average_by_nothing(tangent):
    """The error at the exact map has mean 0 whatever u_t is, so that it is where the gradient is 0."""
    exact = GaussianMap(RectifiedFlow())
    objective = MeanFlow(Fixed(), share=1.0, tangent=tangent, derivative="difference", step=1e-4)
    seen = []
    error = objective(step_of(_Seeing(exact, seen), images=20_000)).error
    u_t = seen[-1] - seen[-1].mean(0)
    noise = error.std() / 20_000**0.5
    assert error.mean(0).abs().max() < 5 * noise
    assert (error * u_t).mean(0).abs().max() < 5 * noise * u_t.std()
    wrong = _Seeing(GaussianMap(RectifiedFlow(), wrong=1.0), seen)
    assert objective(step_of(wrong, images=20_000)).error.mean(0).abs().max() > 10 * noise


@each_process
def test_the_sampler_walks_the_exact_map_in_any_number_of_steps(process):
    exact = GaussianMap(process)
    u_T = create_sampler("flow_map").prior(process, (3, *SHAPE), 1, torch.Generator().manual_seed(0))
    T, zero = (torch.full((3,), time, dtype=f64) for time in (process.t_max, 0.0))
    images = process.basis.decode(exact.flow(u_T, T, zero))
    for steps in (1, 2, 3, 8):
        found = create_sampler("flow_map")(exact, u_T, steps=steps)
        torch.testing.assert_close(found.images, images, rtol=0, atol=1e-8)
        assert found.nfe == steps
    # From the image back to any level and on to the image: one call is the map, and more have its law.
    one = create_sampler("consistency")(exact, u_T, steps=1)
    torch.testing.assert_close(one.images, images, rtol=0, atol=1e-8)
    many = create_sampler("consistency").prior(process, (4000, *SHAPE), 3, torch.Generator().manual_seed(1))
    spread = process.basis.encode(
        create_sampler("consistency")(exact, many, steps=3, generator=torch.Generator().manual_seed(2)).images
    ).std(0)
    assert (spread - 0.3**0.5).abs().max() < 0.04


def test_jumps_of_the_exact_map_compose():
    data = SimpleNamespace(images=lambda split: torch.randint(256, (20, *SHAPE), dtype=torch.uint8))
    maps = {"exact": GaussianMap(VP()), "wrong": GaussianMap(VP(), wrong=1.0)}
    runs = [SimpleNamespace(folder=Path(k), name=k, data=lambda: data, denoiser=map) for k, map in maps.items()]
    right, wrong = semigroup_study(runs, [4], num=20).rows
    assert max(right["error"], right["difference"]) < 1e-6  # states are in single precision
    assert min(wrong["error"], wrong["difference"]) > 1e-3


def test_levels_of_a_consistency_walk():
    sampler = create_sampler("consistency:sigmas=2/0.5")
    assert sampler.grid(EDM(), 3).tolist() == pytest.approx([80, 2, 0.5, 0])
    with pytest.raises(UserError, match="give 3 steps"):
        sampler.grid(EDM(), 2)
    for wrong in ("0.5/2", "x", "-1"):
        with pytest.raises(UserError, match="sigmas"):
            create_sampler(f"consistency:sigmas={wrong}")
    with pytest.raises(UserError, match="noise levels"):
        create_sampler("consistency:sigmas=90").grid(EDM(), 2)
    assert {"consistency", "flow_map"} < {*SAMPLERS}


@each_process
def test_nested_grids_hold_those_of_half_as_many_steps(process):
    from denoisezoo.diffusion import GRIDS

    for steps in (1, 2, 8):
        assert torch.equal(GRIDS["nested"](process, 2 * steps)[::2], GRIDS["nested"](process, steps))
    with pytest.raises(UserError, match="1024 steps"):
        GRIDS["nested"](process, 1025)


def test_a_consistency_function_is_the_identity_at_its_end():
    torch.manual_seed(0)
    for process, name in ((EDM(), None), (RectifiedFlow(), None), (VP(), "v")):
        denoiser = create_denoiser("ddpmpp_tiny", process, name, num_classes=0, cond_channels=0, augment_dim=0).double()
        nn.init.normal_(denoiser.backbone.head.weight, std=0.1)
        u = torch.randn(2, 3, 8, 8, dtype=f64)
        late, soon = ((denoiser(u, torch.full((2,), t, dtype=f64)).u_0 - u).abs().max() for t in (1e-3, 1e-9))
        assert soon < 2e-3 * late
    with pytest.raises(UserError, match="no consistency function"):
        EasyConsistency().check(create_denoiser("ddpmpp_tiny", RectifiedFlow(), "x0"))


class Table(Denoiser):
    """A linear jump for each pair of times of a grid: what is learned is u_0 = a + b u_t, for each."""

    second_time = True

    def __init__(self, process, steps):
        super().__init__()
        from denoisezoo.diffusion import GRIDS

        self.process = process
        self.grid = GRIDS["nested"](process, steps)
        self.offset = nn.Parameter(torch.zeros(steps + 1, steps + 1, *SHAPE, dtype=f64))
        self.gain = nn.Parameter(torch.zeros(steps + 1, steps + 1, 1, 1, 1, dtype=f64))

    def forward(self, u_t, t, given=NOTHING, effort=None):
        i, j = ((x[:, None] - self.grid).abs().argmin(1) for x in (t, given.until))
        u_0 = self.offset[i, j] + self.gain[i, j] * u_t
        alpha, sigma = (over_images(x, u_t) for x in self.process.alpha_sigma(t))
        return Prediction(u_0, (u_t - alpha * u_0) / sigma)


def test_a_table_that_is_distilled_round_by_round_becomes_the_flow_map():
    """From the exact velocity to one step: each round converges to what two steps of the one before do."""
    process, every = RectifiedFlow(), 60
    exact, table = GaussianMap(process), Table(process, 8)
    objective = ready(ProgressiveDistillation(steps=4, every=every), exact)
    objective.modules(table)
    data = step_of(exact)
    for number in [turn * every + part for turn in range(objective.rounds) for part in (0, 1, 2, 3)]:
        optimizer = torch.optim.LBFGS(table.parameters(), max_iter=40, line_search_fn="strong_wolfe")

        def closure(number=number, optimizer=optimizer):
            optimizer.zero_grad()
            loss = objective(Step(table, data.batch, torch.Generator().manual_seed(number % 2), number=number)).loss
            loss.backward()
            return loss

        optimizer.step(closure)
    u_T = create_sampler("flow_map").prior(process, (64, *SHAPE), 1, torch.Generator().manual_seed(0))
    T, zero = (torch.full((64,), time, dtype=f64) for time in (process.t_max, 0.0))
    images = exact.flow(u_T, T, zero)
    for calls in (1, 2, 4):
        found = create_sampler("flow_map")(table, u_T, steps=calls).images
        assert (found - images).abs().max() < 1e-3


class Tiny(dz.Backbone):
    """One convolution, and one number of both times that is added to it."""

    def __init__(self):
        super().__init__(TinyConfig())
        self.conv, self.times = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(2, 1)

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        until = c_noise if given.until is None else given.until
        shift = self.times(torch.stack([c_noise, until], dim=1).to(x.dtype) / 1000)
        return self.conv(x) + shift[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class TinyConfig(dz.BackboneConfig):
    in_channels: int = 1
    out_channels: int = 1
    resolution: int = SIDE
    second_time: bool = True


FORWARD = 9 * SIDE**2 + 2
BACKWARD = FORWARD  # gradients of weights: neither states nor times have any
TANGENT = 2 * FORWARD  # a layer's input and its weight are both pushed forward
PRICES = {
    # A student, forward and backward, and two steps of the teacher or the student before.
    "progressive": (lambda: ProgressiveDistillation(every=4), FORWARD + BACKWARD + 2 * FORWARD),
    # The teacher is told a second time too, so that its step is a jump, in one call, whatever its solver.
    "heun": (lambda: ProgressiveDistillation(every=4, solver="heun"), FORWARD + BACKWARD + 2 * FORWARD),
    "distillation": (lambda: ConsistencyDistillation(), FORWARD + BACKWARD + FORWARD + FORWARD),
    "training": (lambda: ConsistencyTraining(total=10), FORWARD + BACKWARD + FORWARD),
    "easy": (lambda: EasyConsistency(), FORWARD + BACKWARD + FORWARD),
    "jvp": (lambda: MeanFlow(share=1.0), FORWARD + BACKWARD + TANGENT),
    "half": (lambda: MeanFlow(share=0.5), FORWARD + BACKWARD + TANGENT // 2),
    "shortcut": (lambda: Shortcut(share=0.25), FORWARD + BACKWARD + 2 * FORWARD // 4),
    # And u(sigma): one linear layer of two features, forward, and the gradient of its weights.
    "continuous": (lambda: ContinuousConsistency(features=2), FORWARD + BACKWARD + TANGENT + 2 + 2),
    "reflow": (lambda: Reflow(), FORWARD + BACKWARD),
    "difference": (lambda: MeanFlow(share=1.0, derivative="difference"), FORWARD + BACKWARD + 2 * FORWARD),
}


@pytest.mark.parametrize("name", PRICES)
def test_a_step_costs_what_is_counted_by_hand(name):
    make, expected = PRICES[name]
    objective = make()
    denoiser = create_denoiser(Tiny(), EDM() if name == "continuous" else RectifiedFlow())
    if objective.teaches:
        objective.learn_from(copy.deepcopy(denoiser))
    assert objective.cost(denoiser, lambda call: count(call).macs) == expected


def test_heun_of_a_teacher_costs_two_calls_where_it_is_told_one_time():
    """The teacher has all 4 steps of the first round, and of each later one every other step of which the turn is its
    own: 2, 1 and 1."""
    denoiser = create_denoiser(Tiny(), RectifiedFlow())
    teacher = copy.deepcopy(denoiser)
    teacher.second_time = False
    objective = ProgressiveDistillation(every=4, solver="heun").learn_from(teacher)
    by_source = sum(objective.count(number) == 8 for number in range(16))
    assert by_source == 8
    expected = FORWARD + BACKWARD + 2 * FORWARD + by_source / 16 * 2 * FORWARD
    assert objective.cost(denoiser, lambda call: count(call).macs) == expected


def test_adversarial_distillation_costs_its_jumps_and_its_judge():
    """Half of the steps begin at the prior, where the teacher takes all of its 4 steps, and half take 2 of them."""
    small = DiscriminatorConfig(channels=4, widths=(4,))
    denoiser = create_denoiser(Tiny(), RectifiedFlow())
    objective = AdversarialDistillation(steps=2, calls=4, discriminator=small).learn_from(copy.deepcopy(denoiser))
    judge = Discriminator(small, denoiser.backbone.spec).to("meta").requires_grad_(False)
    image = torch.zeros(1, *SHAPE, device="meta", requires_grad=True)

    def judged(image):
        return judge(image, torch.zeros(1, device="meta"), None)

    through = count(lambda: judged(image).sum().backward()).macs
    judge.requires_grad_(True)
    learns = count(lambda: opposing_loss(judged, image, image.detach(), 0.1).backward()).macs
    expected = (FORWARD + BACKWARD + 3 * FORWARD + through) + (FORWARD + learns)
    assert objective.cost(denoiser, lambda call: count(call).macs) == expected


@each_process
def test_a_finished_jump_is_the_teachers_and_is_judged(process):
    exact = GaussianMap(process)
    objective = AdversarialDistillation(steps=2, calls=8, weight=0.5).learn_from(copy.deepcopy(exact))
    seen = []
    objective.adversary = lambda image, t, label: seen.append(image) or image.flatten(1).mean(1)
    for number in range(4):  # both times of the grid
        found = objective(step_of(exact, number))
        assert found.per_sample.max() < 1e-12  # eight jumps of the exact map end where one ends
        judged = F.softplus(-seen[-1].detach().flatten(1).mean(1)).mean()
        assert found.loss.item() == pytest.approx(0.5 * judged.item(), rel=1e-6)
    step = step_of(exact, 1)
    objective.opposing_loss("adversary", step)
    assert torch.equal(seen[-2], step.batch["image"])
    assert not seen[-1].requires_grad  # the denoiser learns nothing from it
    assert objective(step_of(GaussianMap(process, wrong=1.0))).per_sample.mean() > 1e-6


@pytest.mark.parametrize("name", ["mean_flow", "easy", "progressive"])
def test_targets_have_no_gradient(name):
    """The gradient is that of a squared error, or a distance, to what is held fixed: by differences of it alone."""
    torch.manual_seed(0)
    denoiser = create_denoiser(Tiny(), RectifiedFlow()).double()
    image = torch.randn(8, *SHAPE, dtype=f64)
    make = {
        "mean_flow": lambda: MeanFlow(UniformTimes(), power=0.0),
        "easy": lambda: EasyConsistency(every=1, stages=4, k=1.0),
        "progressive": lambda: ready(ProgressiveDistillation(steps=2, every=1), copy.deepcopy(denoiser)),
    }
    objective = make[name]()

    def loss_at(student, number=3):
        return objective(Step(student, {"image": image}, torch.Generator().manual_seed(0), number=number))

    if name == "progressive":
        loss_at(denoiser)  # takes in the student
    loss = loss_at(denoiser)
    loss.loss.backward()
    gradient = denoiser.backbone.conv.weight.grad.flatten()[4]
    held, h = _Held(denoiser), 1e-2  # losses are squares, and summed up in float32
    moved = []
    for sign in (1, -1):
        held.student = copy.deepcopy(denoiser)
        with torch.no_grad():
            held.student.backbone.conv.weight.view(-1)[4] += sign * h
        moved.append(loss_at(held).loss)
    assert float(gradient) == pytest.approx(float(moved[0] - moved[1]) / (2 * h), rel=2e-3)


class _Held(Denoiser):
    """A student whose calls without a gradient, and whose derivatives, are those of the weights that it began with."""

    second_time = True

    def __init__(self, fixed):
        super().__init__()
        self.process, self.fixed, self.student = fixed.process, copy.deepcopy(fixed), fixed

    def output_scale(self, t):
        return self.fixed.output_scale(t)

    def forward(self, u_t, t, given=NOTHING, effort=None):
        return (self.student if torch.is_grad_enabled() else self.fixed)(u_t, t, given, effort)

    def velocity(self, u_t, t, given=NOTHING, effort=None):
        if not has_tangent(u_t):
            return self.student.velocity(u_t, t, given)
        now, then = self.student.velocity(u_t, t, given), self.fixed.velocity(u_t, t, given)
        return unpack_dual(now).primal + (then - unpack_dual(then).primal)


@each_process
def test_a_shortcut_of_the_exact_map_is_itself(process):
    """The smallest step is one along the velocity; all others are jumps of the average, which is exact."""
    exact = GaussianMap(process)
    objective = Shortcut(steps=512, share=0.5)
    found = objective(step_of(exact, average=copy.deepcopy(exact), images=256))
    jumps = found.per_sample[:128]
    assert jumps.sort().values[: 128 * 4 // 5].max() < 1e-12  # a tenth have the smallest step
    assert objective(step_of(GaussianMap(process, wrong=1.0), average=exact)).per_sample[:32].mean() > 1e-6


def test_pairs_of_reflow_are_ends_of_the_flow_and_are_kept(tmp_path):
    process = RectifiedFlow()
    exact, denoiser = GaussianMap(process), create_denoiser(Tiny(), process)
    errors = []
    for steps in (9, 36):
        objective = Reflow(pairs=300, steps=steps).learn_from(_OneTime(exact))
        objective.setup(denoiser, None, tmp_path / str(steps))
        pairs = objective.pairs
        T, zero = (torch.full((300,), time, dtype=f64) for time in (process.t_max, 0.0))
        errors.append(float((exact.flow(pairs.eps.double(), T, zero) - pairs.u_0).abs().max()))
    assert errors[1] < errors[0] / 10  # Heun's error falls with the square of the steps
    again = Reflow(pairs=300, steps=36).learn_from(GaussianMap(process, wrong=1.0))
    again.setup(denoiser, None, tmp_path / "36")
    assert torch.equal(again.pairs.u_0, pairs.u_0)
    # Along straight paths between them the velocity is their difference: a network that puts out nothing errs by it.
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.zero_()
    found = again(Step(denoiser, {"image": torch.zeros(64, *SHAPE)}, torch.Generator().manual_seed(0)))
    mean = (pairs.eps - pairs.u_0).square().mean()
    assert float(found.loss) == pytest.approx(float(mean), rel=0.2)


class _OneTime(Denoiser):
    """The exact map without its second time: a posterior mean."""

    def __init__(self, exact):
        super().__init__()
        self.process, self.exact = exact.process, exact

    def forward(self, u_t, t, given=NOTHING, effort=None):
        return self.exact(u_t, t, given._replace(until=None))


class _Labelled(Denoiser):
    """Says its label everywhere; 0 without one."""

    def __init__(self):
        super().__init__()
        self.process = RectifiedFlow()
        self.weight = nn.Parameter(torch.ones((), dtype=f64))

    def forward(self, u_t, t, given=NOTHING, effort=None):
        label = torch.zeros(len(u_t)) if given.label is None else given.label.clamp(min=0)
        u_0 = self.weight * torch.ones_like(u_t) * over_images(label, u_t)
        return Prediction(u_0, (u_t - (1 - over_images(t, u_t)) * u_0) / over_images(t, u_t))


def test_guidance_is_distilled():
    """Of a teacher that says 1, and 0 without a label, guided by 3 comes 3."""
    teacher, student = _Labelled(), _Labelled()
    objective = GuidanceDistillation(guidance=3.0).learn_from(teacher)
    batch = {"image": torch.zeros(16, *SHAPE, dtype=f64), "label": torch.ones(16, dtype=torch.int64)}

    def loss():
        return objective(Step(student, batch, torch.Generator().manual_seed(0))).loss

    assert loss() == 4
    with torch.no_grad():
        student.weight.fill_(3.0)
    assert loss() == 0


class Exact(dz.Backbone):
    """F of the consistency function of data N(0, v) under EDM's preconditioning, and a number that is wrong."""

    def __init__(self, v=0.3, sigma_data=0.5):
        super().__init__(TinyConfig(second_time=False))
        self.v, self.sd, self.off = v, sigma_data, nn.Parameter(torch.zeros((), dtype=f64))

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        sigma = over_images((4 * c_noise).exp(), x)
        root = (sigma**2 + self.sd**2).sqrt()
        y = x * root
        f = y * (self.v / (self.v + sigma**2)).sqrt()
        return (f - self.sd**2 / root**2 * y) * root / (sigma * self.sd) + self.off


def test_the_tangent_of_an_exact_continuous_consistency_function_is_zero():
    denoiser = create_denoiser(Exact(), EDM())
    teacher = _OneTime(GaussianMap(EDM()))
    teacher.exact.mean.zero_()
    objective = ContinuousConsistency(warmup=10).learn_from(teacher)
    objective.modules(denoiser)
    image = 0.3**0.5 * torch.randn(64, *SHAPE, dtype=f64, generator=torch.Generator().manual_seed(0))

    def loss():
        return objective(Step(denoiser, {"image": image}, torch.Generator().manual_seed(1), number=10))

    assert loss().per_sample.max() < 1e-12
    for off in (0.3, -0.3):  # the gradient leads back
        denoiser.zero_grad()
        with torch.no_grad():
            denoiser.backbone.off.fill_(off)
        found = loss()
        assert found.per_sample.mean() > 1e-4
        found.loss.backward()
        assert denoiser.backbone.off.grad * off > 0
    with pytest.raises(UserError, match="EDM's process"):
        objective.check(create_denoiser(Tiny(), RectifiedFlow()))
