"""Everything on the pretended device: the numbers of the CPU, no operand of another device, no wait in a step."""

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.diffusion import OBJECTIVES, PRECONDITIONINGS, PROCESSES, SAMPLERS, SeedBlock, create_sampler
from denoisezoo.diffusion.capabilities import ConditionIsMeasurement, Halving, unconditioned
from denoisezoo.diffusion.counter_noise import CounterBlock
from denoisezoo.diffusion.guidance import guided
from denoisezoo.diffusion.noise import host_generator
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.train.noise_bins import NoiseBins
from tests.contracts.test_backbones import call, inputs
from tests.device.pretended import DeviceMixError, Pretend, on, pretend_cuda, waits
from tests.device.small import (
    AUTOENCODER,
    SIDE,
    small_batch,
    small_condition,
    small_copy,
    small_denoiser,
    small_objective,
)

TINY = [name for name in list_denoisers() if "tiny" in get_variant(name).tags]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = 1e-6
"""By how much gradients may differ, relative to their norm, in every dtype: both devices have the CPU's kernels."""
DEVICES = ("cpu", "cuda")


def served(process, preconditioning):
    """Whether a preconditioning serves a process."""
    try:
        small_denoiser(process, preconditioning)
    except UserError:
        return False
    return True


PAIRS = [(process, name) for process in PROCESSES for name in PRECONDITIONINGS if served(process, name)]
PAIRS.append((AUTOENCODER, None))


def inside(x):
    """The numbers of a tensor of either device."""
    return x.detach().elem if isinstance(x, Pretend) else x.detach()


def test_the_pretended_device_refuses_what_cuda_refuses():
    with pretend_cuda():
        x = torch.ones(3, device="cuda")
        assert (x * torch.tensor(2.0)).device.type == "cuda"
        for wrong in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(3)]),
            lambda: torch.randn(3, generator=torch.Generator(), device="cuda"),
            lambda: torch.randn(3, generator=torch.Generator("cuda")),
        ):
            with pytest.raises(DeviceMixError):
                wrong()
        with pytest.raises(RuntimeError):
            x.numpy()
        assert not waits


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3).to("cuda"),
        lambda x: torch.ones(3).to("cuda", non_blocking=True),  # from memory that is not pinned
        lambda x: x.nonzero(),
        lambda x: x[torch.tensor([0])],
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: torch.linalg.inv(x.diag()),
    ],
)
def test_it_counts_what_cuda_waits_for(wait):
    with pretend_cuda():
        x = torch.ones(3, device="cuda")
        wait(x)
        assert sum(waits.values()) >= 1


def test_it_lets_pass_what_does_not_wait():
    with pretend_cuda():
        x = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        there = torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)
        (x * 2.0 + torch.tensor(1.0)).sum()
        assert there.tolist() == [1.0, 1.0, 1.0]
        assert not waits


def test_a_generator_of_the_device_has_a_host_generator_of_its_seed():
    """The pretended device otherwise draws both from one stream, so that its numbers are those of the CPU."""
    with pretend_cuda():
        found = host_generator(torch.Generator("cuda").manual_seed(7))
        assert found.device.type == "cpu"
        assert found.initial_seed() == 7
    ours = torch.Generator().manual_seed(7)
    assert host_generator(ours) is ours
    assert host_generator(None) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TINY)
def test_networks_train_without_a_wait(name, dtype, monkeypatch):
    """Forward, backward and a fused step of every effort, of weights that all count: fresh ones may begin at 0."""
    if dtype is not torch.float32:  # one kernel on a GPU, which rounds once, and several on a CPU
        monkeypatch.setattr(F, "dropout", lambda x, *_, **__: x)
    variant, found = get_variant(name), {}
    for device in DEVICES:
        torch.manual_seed(0)
        net = variant.build().train()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        with on(device):
            net = net.to(device=device, dtype=dtype)
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
            given = {key: x.to(dtype) if x.is_floating_point() and key != "c_noise" else x
                     for key, x in inputs(variant, 2, device).items()}  # fmt: skip
            waits.clear()
            for effort in net.efforts:
                out = call(net, given, effort)
                out.float().square().mean().backward()
            gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
            optimizer.step()
            assert device == "cpu" or not waits
            found[device] = [inside(x).double() for x in (out, *gradients, *net.parameters())]
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())  # one overflows in float16
        ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
        assert (ours - theirs).norm() <= ROUNDING * max(theirs.norm(), 1e-3)


@pytest.mark.parametrize(("process", "preconditioning"), PAIRS)
def test_objectives_train_without_a_wait(process, preconditioning):
    """Every objective that trains the pair: times, noise, loss, gradient, and the loss by noise level."""
    tried = []
    for name in OBJECTIVES:
        try:
            theirs = trained_once(name, process, preconditioning, "cpu")
        except UserError:  # it does not train that
            continue
        ours = trained_once(name, process, preconditioning, "cuda")
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True, msg=lambda m, n=name: f"{n} {m}")
        tried.append(name)
    assert {"simple", "autoencoding"} & set(tried)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_a_pair(name):
    """So that the test before leaves none out."""
    assert any(trains(name, *pair) for pair in PAIRS)


def trains(name, process, preconditioning):
    """Whether an objective trains a pair."""
    try:
        trained_once(name, process, preconditioning, "cpu")
    except UserError:
        return False
    return True


def trained_once(name, process, preconditioning, device):
    """Losses, gradient and bins of one step of an objective."""
    with on(device):
        denoiser = small_denoiser(process, preconditioning)
        made, bins = small_objective(name, denoiser), NoiseBins()
        average = small_copy(denoiser).to(device) if made.needs_average else None
        denoiser, batch = denoiser.to(device), small_batch(denoiser, device=device)
        made.to(device)
        bins.to(batch["image"].device)
        numbers = one_step(made, denoiser, average, batch, bins, device)
        if device == "cuda" and waits:  # tables of the process go to the device once
            denoiser.zero_grad()
            one_step(made, denoiser, average, batch, bins, device)
            assert not waits, (name, waits)
        return numbers


def one_step(objective, denoiser, average, batch, bins, device):
    """What it adds to nothing."""
    waits.clear()
    step = Step(denoiser, batch, torch.Generator(device).manual_seed(3), average=average)
    loss = objective(step)
    bins.add(denoiser.process.log_snr(loss.t), loss.per_sample)
    loss.loss.backward()
    losses = [loss.loss, loss.per_sample]
    for name in objective.opponents:
        losses.append(objective.opposing_loss(name, step))
        losses[-1].backward()
    gradients = [p.grad for p in denoiser.parameters() if p.grad is not None]
    return [inside(x).clone() for x in (*losses, *gradients, bins.total, bins.count)]


def walked(denoiser, sampler, device, *, steps=4, plan=None, given=None, side=SIDE, noise=None):
    """Images of a walk, what it waited for, and its calls."""
    with on(device):
        noise = SeedBlock([0, 1]) if noise is None else noise([0, 1], device)
        denoiser = denoiser.to(device).eval()
        given = Given() if given is None else given.to(device)
        process = denoiser.process if given.image is None else unconditioned(denoiser.process)
        channels = denoiser.latent_shape[0] if hasattr(denoiser, "latent_shape") else 1
        u = sampler.prior(process, (2, channels, side, side), steps, noise, device=device, dtype=torch.float32)
        waits.clear()
        found = sampler(denoiser, u, steps=steps, generator=noise, plan=plan, given=given)
        assert found.images.device.type == device
        return inside(found.images), waits.copy(), found.nfe


COARSE = {"rk45": ":atol=1e6"}
"""Options with which a walk is short."""


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_walk_without_a_wait(name):
    """Every process that it can walk.

    A walk waits once, in the end, to see whether its images are finite. What is given as a measurement is looked at
    before the first step. An adaptive one also waits in each step, for the error by which the host chooses the next.
    """
    sampler, walks = create_sampler(name + COARSE.get(name, "")), 0
    for process in PROCESSES:
        denoiser = small_denoiser(process)
        given = Given(image=small_condition(denoiser))
        steps = denoiser.process.levels if isinstance(denoiser.process, Halving) else 1 if sampler.adaptive else 4
        try:
            expected, _, _ = walked(denoiser, sampler, "cpu", steps=steps, given=given)
        except UserError:  # it does not walk that
            continue
        found, waited, calls = walked(denoiser, sampler, "cuda", steps=steps, given=given)
        most = 1 + isinstance(denoiser.process, ConditionIsMeasurement) + (calls // 6 if sampler.adaptive else 0)
        if sum(waited.values()) > most:  # tables go to the device once
            _, waited, _ = walked(denoiser, sampler, "cuda", steps=steps, given=given)
        assert sum(waited.values()) <= most, (process, waited)
        assert torch.equal(found, expected), process
        walks += 1
    assert walks


def test_noise_of_the_device_does_not_wait():
    found = {}
    for device in DEVICES:
        found[device], waited, _ = walked(small_denoiser("vp"), create_sampler("ddpm"), device, noise=CounterBlock)
        assert sum(waited.values()) <= 1, waited
    torch.testing.assert_close(found["cuda"], found["cpu"])
    assert not torch.equal(found["cpu"], walked(small_denoiser("vp"), create_sampler("ddpm"), "cpu")[0])


def test_guidance_in_an_interval_does_not_wait():
    found = {}
    for device in DEVICES:
        torch.manual_seed(0)
        from denoisezoo.diffusion import create_denoiser

        denoiser = create_denoiser(TINY[TINY.index("ddpm_tiny")], "edm")
        classes = denoiser.backbone.spec.num_classes
        assert classes
        made = guided(denoiser, 2.0, (0.1, 10.0))
        made.latent_shape = denoiser.latent_shape
        given = denoiser.blank(2)._replace(label=torch.tensor([0, classes - 1]))
        found[device], waited, _ = walked(
            made, create_sampler("heun"), device, given=given, side=denoiser.latent_shape[-1]
        )
        assert sum(waited.values()) <= 1, waited
    torch.testing.assert_close(found["cuda"], found["cpu"])


def test_a_plan_does_not_wait():
    from denoisezoo.diffusion import create_denoiser

    class Plan:
        def effort(self, log_snr):
            return efforts[0] if log_snr < 0 else efforts[-1]

    found = {}
    for device in DEVICES:
        torch.manual_seed(0)
        denoiser = create_denoiser("slim_tiny", "vp")
        efforts = denoiser.efforts
        found[device], waited, _ = walked(
            denoiser, create_sampler("ddim"), device, plan=Plan(), given=denoiser.blank(2),
            side=denoiser.latent_shape[-1],
        )  # fmt: skip
        assert sum(waited.values()) <= 1, waited
    torch.testing.assert_close(found["cuda"], found["cpu"])
