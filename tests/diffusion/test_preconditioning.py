"""Preconditionings and objectives: exact recovery, EDM's table, published weights."""

import re
from dataclasses import replace

import pytest
import torch

from denoisezoo.archs import BackboneConfig
from denoisezoo.archs.backbone import Backbone
from denoisezoo.diffusion import PRECONDITIONINGS, PROCESSES, Drift, Measured, NetworkDenoiser, ScalarProcess
from denoisezoo.diffusion.capabilities import stages_of
from denoisezoo.diffusion.coefficients import apply_blocks, inverse, transpose
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.diffusion.objectives.regression import EDMLoss, Likelihood, MinSNR, Simple
from denoisezoo.diffusion.objectives.times import LogitNormalTimes, LogNormalSigma, OneStage, UniformTimes
from denoisezoo.diffusion.preconditioning import X0, EDMPreconditioning, Epsilon, V
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.processes.scalar import EDM, VP, RectifiedFlow
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING

f64 = torch.float64


def served(name, process):
    try:
        PRECONDITIONINGS[name]().check(PROCESSES[process].for_images(4))
    except UserError:
        return False
    return True


PAIRS = [(name, process) for name in PRECONDITIONINGS for process in PROCESSES if served(name, process)]


def test_epsilon_serves_all_processes_with_signal_and_all_serve_diagonal_ones():
    assert {process for name, process in PAIRS if name == "eps"} == set(PROCESSES) - {"flow"}
    assert {process for name, process in PAIRS if name == "score"} == set(PROCESSES) - {"flow", "cld"}
    assert {name for name, process in PAIRS if process == "cld"} == {"eps", "mixed_score", "whitened"}
    assert {process for name, process in PAIRS if name == "next_scale"} == {"downsampling"}
    assert ("velocity", "drift") not in PAIRS  # its condition stands still
    assert len(PAIRS) == (len(PROCESSES) - 1) * (len(PRECONDITIONINGS) - 3) + 3 + 1 - 1 - 2


@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_a_perfect_network_recovers_image_and_noise(name, process):
    preconditioning, process = PRECONDITIONINGS[name](), PROCESSES[process].for_images(4)
    # Times of the last stage, where nothing has left the state.
    t = process.sample_times(torch.linspace(0.02, 0.98, 9, dtype=f64) / len(stages_of(process)))
    u_0 = process.basis.encode(torch.randn(9, process.basis.state_channels(3) // process.basis.k, 4, 4, dtype=f64))
    eps = torch.randn(u_0.shape, dtype=f64)
    u_t = process.perturb(u_0, eps, t)
    found = preconditioning.prediction(process, u_t, t, preconditioning.target(process, u_0, eps, t))
    learned = 3 if isinstance(process, Drift) else u_0.shape[1]  # a clean condition has no noise to tell
    for part, expected in zip(found, (u_0, eps), strict=True):
        torch.testing.assert_close(part[:, :learned], expected[:, :learned], atol=1e-7, rtol=1e-7)


def test_no_signal_at_all_is_no_trouble():
    """At t = 1 of rectified flow the state is pure noise."""
    process, t = RectifiedFlow(), torch.ones(2, dtype=f64)
    eps, F_x = torch.randn(2, 2, 1, 4, 4, dtype=f64)
    for name in ("velocity", "x0", "v", "edm"):
        preconditioning = PRECONDITIONINGS[name]()
        assert all(p.isfinite().all() for p in preconditioning.prediction(process, eps, t, F_x))
        assert all(p.isfinite().all() for p in preconditioning.inputs(process, eps, t))


@pytest.mark.parametrize("name", ["eps", "score"])
@pytest.mark.parametrize("process", [RectifiedFlow(), Measured(RectifiedFlow())])
def test_noise_is_not_predicted_where_the_walk_begins_without_signal(name, process):
    """u_0 = (u_t - sigma eps) / alpha would divide by 0 at t = 1, and every image be NaN."""
    with pytest.raises(UserError, match=r"begins in noise alone.*; use Velocity, V or X0$") as caught:
        PRECONDITIONINGS[name]().check(process)
    assert "\n" not in str(caught.value)


def test_the_score_is_that_of_the_gaussian_around_the_image():
    """F = grad log N(u_t; alpha u_0, sigma^2), by autograd, and u_0 = (u_t + sigma^2 F) / alpha (Tweedie)."""
    process, score, t = VP(), PRECONDITIONINGS["score"](), torch.tensor([0.05, 0.6], dtype=f64)
    u_0, eps = torch.randn(2, 2, 1, 4, 4, dtype=f64)
    u_t = process.perturb(u_0, eps, t).requires_grad_()
    alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in process.alpha_sigma(t))
    (gradient,) = torch.autograd.grad((-((u_t - alpha * u_0) ** 2) / (2 * sigma**2)).sum(), u_t)
    torch.testing.assert_close(score.target(process, u_0, eps, t), gradient)
    F_x = torch.randn_like(u_0)
    found = score.prediction(process, u_t.detach(), t, F_x)
    torch.testing.assert_close(found[0], (u_t.detach() + sigma**2 * F_x) / alpha)
    torch.testing.assert_close(found[1], -sigma * F_x)
    torch.testing.assert_close(score.c_out(process, t), (sigma**2 / alpha).flatten())
    assert score.inputs(process, u_t, t)[1].tolist() == [0.05 * 999, 0.6 * 999]  # what MSDiff's networks are told


def test_likelihood_weighs_errors_of_the_score_by_g_squared():
    """arXiv 2101.09258, equation 7."""
    process, t = VP(), torch.tensor([0.1, 0.7], dtype=f64)
    weight = Likelihood().weight(process, t, PRECONDITIONINGS["score"]().c_out(process, t))
    torch.testing.assert_close(weight, process.diffusion(t)[:, 0, 0].flatten())


def test_edm_is_its_published_table():
    """c_skip, c_out, c_in, c_noise of EDM, table 1; lambda c_out^2 = 1; unit variance of input and target."""
    process, edm, sd = EDM(), EDMPreconditioning(0.5), 0.5
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=f64)
    x, F_x = torch.randn(2, 4, 3, 2, 2, dtype=f64)
    c = sigma.reshape(-1, 1, 1, 1)
    D = sd**2 / (c**2 + sd**2) * x + c * sd / (c**2 + sd**2).sqrt() * F_x
    torch.testing.assert_close(edm.prediction(process, x, sigma, -F_x)[0], D - 2 * c * sd / (c**2 + sd**2).sqrt() * F_x)
    torch.testing.assert_close(edm.prediction(process, x, sigma, F_x)[0], D)
    torch.testing.assert_close(edm.c_out(process, sigma), sigma * sd / (sigma**2 + sd**2).sqrt())
    scaled, c_noise = edm.inputs(process, x, sigma)
    torch.testing.assert_close(scaled, x / (c**2 + sd**2).sqrt())
    torch.testing.assert_close(c_noise, sigma.log() / 4)
    p, q = edm.mix(process, sigma)
    torch.testing.assert_close((p * sd) ** 2 + q**2, torch.ones(4, dtype=f64))


def test_edm_on_vp_with_unit_data_is_v_prediction():
    process, t = VP(), torch.linspace(0.01, 1, 5, dtype=f64)
    p, q = EDMPreconditioning(1.0).mix(process, t)
    p_v, q_v = V().mix(process, t)
    torch.testing.assert_close(p, -p_v)
    torch.testing.assert_close(q, -q_v)


class Toy(Backbone):
    """Two outputs for each input channel, as with learned variance."""

    def __init__(self):
        super().__init__(BackboneConfig(in_channels=1, out_channels=2, resolution=4))
        self.conv = torch.nn.Conv2d(1, 2, 1)

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        return self.conv(x) + 0.01 * c_noise[:, None, None, None]


@pytest.mark.parametrize("name", [name for name, process in PAIRS if process == "vp"])
def test_training_error_is_the_error_of_the_image_over_c_out(name):
    denoiser = NetworkDenoiser(Toy(), VP(), PRECONDITIONINGS[name]())
    t = torch.linspace(0.05, 0.9, 6, dtype=f64)
    u_0, eps = torch.randn(2, 6, 1, 4, 4)
    error, c_out = denoiser.training_error(u_0, eps, t)
    image_error = denoiser(denoiser.process.perturb(u_0, eps, t), t).u_0 - u_0
    expected = image_error.abs().mean((1, 2, 3))
    torch.testing.assert_close(error.abs().mean((1, 2, 3)) * c_out.float(), expected, rtol=1e-3, atol=1e-5)


def test_float64_states_stay_float64_round_a_float32_network():
    denoiser = NetworkDenoiser(Toy(), EDM(), EDMPreconditioning())
    u_t = torch.randn(2, 1, 4, 4, dtype=f64)
    found = denoiser(u_t, torch.tensor([0.1, 2.0], dtype=f64))
    assert found.u_0.dtype == found.eps.dtype == f64
    assert found.u_0.shape == u_t.shape
    half = NetworkDenoiser(Toy().to(torch.bfloat16), EDM(), EDMPreconditioning())
    assert half(u_t, torch.tensor([0.1, 2.0], dtype=f64)).u_0.dtype == f64


def test_min_snr_weights_are_the_papers():
    """min(SNR, gamma)/SNR for eps, min(SNR, gamma)/(SNR + 1) for v, min(SNR, gamma) for x0 (arXiv 2303.09556)."""
    process, t = VP(), torch.linspace(0.01, 1, 7, dtype=f64)
    snr = process.log_snr(t).exp()
    objective = MinSNR(gamma=5.0)
    papers = {Epsilon: snr.clamp(max=5) / snr, V: snr.clamp(max=5) / (snr + 1), X0: snr.clamp(max=5)}
    for cls, expected in papers.items():
        weight = objective.weight(process, t, cls().c_out(process, t))
        torch.testing.assert_close(weight, expected)


def test_objective_values():
    """A network that returns zero errs by the target itself: mean square 1 for eps whatever the times."""

    class Zero(Toy):
        def forward(self, x, c_noise, *given):
            return super().forward(x, c_noise) * 0

    denoiser = NetworkDenoiser(Zero(), VPDiscrete(), Epsilon())
    batch = {"image": torch.rand(4000, 1, 4, 4) * 2 - 1}
    loss, per_sample, t, _ = Simple()(Step(denoiser, batch, torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(1, abs=4 * (2 / 64_000) ** 0.5)
    assert per_sample.shape == t.shape == (4000,)
    assert t.min() >= 1
    assert t.max() <= 1000
    assert torch.equal(t, t.round())
    again = Simple()(Step(denoiser, batch, torch.Generator().manual_seed(0)))
    assert torch.equal(loss, again.loss)


@pytest.mark.parametrize("stratified", [False, True])
def test_log_normal_times(stratified):
    times = LogNormalSigma(stratified=stratified)
    t = times(EDM(), times.uniform(20_000, torch.Generator().manual_seed(0), torch.device("cpu")))
    # The ends of the range cut 3.1 and 4.2 standard deviations away.
    assert t.log().mean().item() == pytest.approx(-1.2, abs=0.03)
    assert t.log().std().item() == pytest.approx(1.2, abs=0.03)


def test_stratified_times_fill_every_stratum():
    u = UniformTimes(stratified=True).uniform(64, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert sorted((u * 64).floor().int().tolist()) == list(range(64))


def test_logit_normal_times_stay_inside():
    times = LogitNormalTimes()
    t = times(RectifiedFlow(), times.uniform(5000, torch.Generator().manual_seed(0), torch.device("cpu")))
    assert 0 < t.min() < t.max() < 1
    assert t.median().item() == pytest.approx(0.5, abs=0.03)


def test_edm_objective_trains_at_its_own_times():
    objective = EDMLoss(P_mean=0.0, P_std=0.1)
    denoiser = NetworkDenoiser(Toy(), EDM(), EDMPreconditioning())
    _, _, t, _ = objective(Step(denoiser, {"image": torch.zeros(1000, 1, 4, 4)}, torch.Generator().manual_seed(0)))
    assert t.log().abs().max() < 0.5


def test_whitened_langevin_has_unit_variance():
    """Of inputs and target, for Gaussian data of that standard deviation, at all times."""
    process, preconditioning = PROCESSES["cld"](), PRECONDITIONINGS["whitened"](0.7)
    n, generator = 40_000, torch.Generator().manual_seed(0)
    image = 0.7 * torch.randn(n, 1, 1, 1, generator=generator, dtype=f64)
    eps = torch.randn(n, 2, 1, 1, generator=generator, dtype=f64)
    for time in (1e-3, 0.05, 0.3, 1.0):
        t = torch.full((1,), time, dtype=f64)
        u_0 = process.basis.encode(image)
        x, _ = preconditioning.inputs(process, process.perturb(u_0, eps, t), t)
        target = preconditioning.target(process, u_0, eps, t)
        for values in (x[:, 0], x[:, 1], target):
            assert values.std().item() == pytest.approx(1, abs=0.02)
        # What is left is not correlated with what was seen.
        assert (x.flatten(1) * target.flatten(1)).mean(0).abs().max() < 0.02


def test_the_mixed_score_is_published_hybrid_score_matching():
    """s_v of the prediction is -v/S_vv - l_t F, the score that belongs to its noise, -(R^-T eps)_v."""
    process, preconditioning = PROCESSES["cld"](), PRECONDITIONINGS["mixed_score"]()
    t = torch.tensor([0.1, 0.6], dtype=f64)
    u_t, F_x = torch.randn(2, 2, 3, 3, dtype=f64), torch.randn(2, 1, 3, 3, dtype=f64)
    _, eps = preconditioning.prediction(process, u_t, t, F_x)
    score = -apply_blocks(transpose(inverse(process.noise(t))), eps)
    S, L = process.covariance(t), process.cholesky(t)
    expected = -u_t[:, 1:] / S[:, 1, 1] - F_x / L[:, 1, 1]
    torch.testing.assert_close(score[:, 1:], expected, rtol=1e-9, atol=1e-9)
    found = preconditioning.target(process, process.basis.encode(u_t[:, :1]), eps, t)
    u = process.perturb(process.basis.encode(u_t[:, :1]), eps, t)
    eps_v = apply_blocks(inverse(L), apply_blocks(process.noise(t), eps))[:, 1:]
    torch.testing.assert_close(found, eps_v - u[:, 1:] * L[:, 1, 1] / S[:, 1, 1], rtol=1e-9, atol=1e-9)


def test_likelihood_weights_are_constant_where_log_snr_is_linear():
    """(highest - lowest) / (T_k - t_min) on errors of eps, per band (MSDiff)."""
    process = PROCESSES["multiscale"](resolution=8, levels=1)
    t = torch.tensor([0.1, 0.4], dtype=f64)
    weight = Likelihood().weight(process, t, Epsilon().c_out(process, t))
    torch.testing.assert_close(weight[:, 0, -1, -1], torch.full((2,), 20 / (0.5 - 1e-3), dtype=f64))
    torch.testing.assert_close(weight[:, 0, 0, 0], torch.full((2,), 20 / (1 - 1e-3), dtype=f64))
    denoiser = NetworkDenoiser(Toy(), PROCESSES["multiscale"](resolution=4, levels=1, drop=False), Epsilon())
    assert Likelihood()(Step(denoiser, {"image": torch.rand(8, 1, 4, 4)})).loss.isfinite()


def test_stages_train_on_what_is_left():
    """Each image of a batch at the size of its stage; a network that returns zero errs by 1 in mean square at all."""
    seen = []

    class Zero(Toy):
        def forward(self, x, c_noise, *given):
            seen.append((tuple(x.shape), c_noise))
            return super().forward(x, c_noise) * 0

    process = PROCESSES["multiscale"](resolution=4, levels=1)
    denoiser = NetworkDenoiser(Zero(), process, Epsilon())
    batch = {"image": torch.rand(4000, 1, 4, 4) * 2 - 1}
    found = Simple(UniformTimes(stratified=True))(Step(denoiser, batch, torch.Generator().manual_seed(0)))
    assert sorted(shape for shape, _ in seen) == [(2000, 1, 2, 2), (2000, 1, 4, 4)]
    assert found.loss.item() == pytest.approx(1, abs=0.05)
    small = found.t > 0.5
    assert found.per_sample[small].mean().item() == pytest.approx(1, abs=5 * (2 / 8000) ** 0.5)
    assert found.per_sample[~small].mean().item() == pytest.approx(1, abs=5 * (2 / 32000) ** 0.5)
    seen.clear()
    Simple(OneStage(in_turn=False))(Step(denoiser, batch, torch.Generator().manual_seed(0)))
    assert len(seen) == 1
    seen.clear()
    objective = Simple(OneStage())
    for step in range(4):  # the least noisy stage, of the full size, begins
        objective.advance(step)
        objective(Step(denoiser, batch, torch.Generator().manual_seed(0)))
    assert [shape[-1] for shape, _ in seen] == [4, 2, 4, 2]


class NotScalar(Process):
    t_min, t_max = 0.1, 1.0

    def psi(self, s, t): ...
    def noise(self, t): ...
    def log_snr(self, t): ...
    def rates(self, t): ...
    def grid(self, steps): ...
    def time_label(self, t): ...


@pytest.mark.parametrize(
    ("process", "name", "inputs", "outputs", "cure"),
    [
        (VP(), "eps", 3, 1, "out_channels to 3, or network.in_channels to 1 for"),
        (VP(), "v", 3, 4, "out_channels to 3, or network.in_channels to 4 for"),
        (EDM(), "edm", 1, 3, "out_channels to 1, or network.in_channels to 3 for"),
        (PROCESSES["cld"](), "eps", 2, 1, "out_channels to 2$"),
        (PROCESSES["cld"](), "whitened", 2, 3, "out_channels to 1$"),
    ],
)
def test_outputs_that_nothing_would_train_or_that_are_missing_are_refused(process, name, inputs, outputs, cure):
    class Sized(Toy):
        def __init__(self, outputs):
            super().__init__()
            self.spec = replace(self.spec, in_channels=inputs, out_channels=outputs)

    with pytest.raises(UserError, match=rf"^the network puts out {outputs} channels, .*; set network.{cure}"):
        NetworkDenoiser(Sized(outputs), process, PRECONDITIONINGS[name]())
    needed = int(re.search(r"\d", cure)[0])
    assert NetworkDenoiser(Sized(needed), process, PRECONDITIONINGS[name]()).untrained == 0
    if name != "whitened":
        assert NetworkDenoiser(Sized(2 * needed), process, PRECONDITIONINGS[name]()).untrained == needed


def test_nonsense_is_refused():
    assert not isinstance(NotScalar(), ScalarProcess)
    with pytest.raises(UserError, match="NotScalar"):
        NetworkDenoiser(Toy(), NotScalar(), V())
    for make in (lambda: EDMPreconditioning(0.0), lambda: LogNormalSigma(P_std=0), lambda: MinSNR(gamma=-1)):
        with pytest.raises(UserError):
            make()


def test_a_network_that_is_called_otherwise_is_refused():
    class Bare(Backbone):
        def forward(self, x):
            return x

    with pytest.raises(
        UserError, match=r"^Bare.forward cannot be called with .*; write it as `def forward\(self, x, c_"
    ):
        NetworkDenoiser(
            Bare(BackboneConfig(in_channels=1, out_channels=1, resolution=8)), EDM(), EDMPreconditioning(0.5)
        )
