"""Everything on the pretended device: the numbers of the CPU, no operand of another device, no wait in a step."""

import pytest
import torch

from denoisezoo.archs import get_variant, list_denoisers
from denoisezoo.diffusion import OBJECTIVES, PRECONDITIONINGS, PROCESSES, SAMPLERS, SeedBlock, create_sampler
from denoisezoo.diffusion.capabilities import ConditionIsMeasurement, Halving, unconditioned
from denoisezoo.diffusion.guidance import guided
from denoisezoo.diffusion.noise import host_generator
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.train.noise_bins import NoiseBins
from tests.contracts.test_backbones import call, inputs
from tests.device.pretended import DeviceMixError, Pretend, pretend_cuda, waits
from tests.device.small import SIDE, small_batch, small_condition, small_denoiser, small_objective

TINY = [name for name in list_denoisers() if "tiny" in get_variant(name).tags]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 8e-2, torch.float16: 1e-2}
"""By how much orders of summation may differ: torch takes a tensor subclass through other kernels of some layers."""
DEVICES = ("cpu", "cuda")


def served(process, preconditioning):
    """Whether a preconditioning serves a process."""
    try:
        small_denoiser(process, preconditioning)
    except UserError:
        return False
    return True


UNTRIED = {"continuous_consistency", "mean_flow", "progressive"}
"""Objectives with `torch.func.jvp`, which takes no tensor subclass, and one that learns from a run."""
PAIRS = [(process, name) for process in PROCESSES for name in PRECONDITIONINGS if served(process, name)]


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


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("name", TINY)
def test_networks_train_without_a_wait(name, dtype):
    """Forward, backward and a fused step of every effort."""
    variant, found = get_variant(name), {}
    for device in DEVICES:
        torch.manual_seed(0)
        net = variant.build(**({"dropout": 0.0} if hasattr(variant.config, "dropout") else {})).train()
        with pretend_cuda():
            net = net.to(device=device, dtype=dtype)
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
            given = {key: x.to(dtype) if x.is_floating_point() and key != "c_noise" else x
                     for key, x in inputs(variant, 2, device).items()}  # fmt: skip
            waits.clear()
            for effort in net.efforts:
                out = call(net, given, effort)
                out.float().square().mean().backward()
            gradients = [p.grad for p in net.parameters() if p.grad is not None]
            found[device] = [inside(x).clone() for x in (out, *gradients)]
            optimizer.step()
            assert not waits
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())  # one overflows in float16
        ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
        assert (ours - theirs).norm() <= ROUNDING[dtype] * max(theirs.norm(), 1e-3)


@pytest.mark.parametrize(("process", "preconditioning"), PAIRS)
def test_objectives_train_without_a_wait(process, preconditioning):
    """Every objective that trains the pair: times, noise, loss, gradient, and the loss by noise level."""
    found = {}
    for device in DEVICES:
        denoiser = small_denoiser(process, preconditioning)
        with pretend_cuda():
            denoiser, batch = denoiser.to(device), small_batch(denoiser, device=device)
            for objective in sorted(set(OBJECTIVES) - UNTRIED):
                try:
                    numbers = trained_once(objective, denoiser, batch, device)
                except UserError:  # it does not train that
                    continue
                if waits:  # tables of the process go to the device once
                    trained_once(objective, denoiser, batch, device)
                assert not waits, (objective, waits)
                found[device, objective] = numbers
    assert ("cuda", "simple") in found
    for _, objective in found:
        ours, theirs = (found[one, objective] for one in DEVICES)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True)


def trained_once(objective, denoiser, batch, device):
    """Losses, gradient and bins of one step."""
    made, bins = small_objective(objective, denoiser), NoiseBins()
    made.to(device)
    bins.to(batch["image"].device)
    waits.clear()  # what is there before training is moved there then
    step = Step(denoiser, batch, torch.Generator(device).manual_seed(3))
    loss = made(step)
    bins.add(denoiser.process.log_snr(loss.t), loss.per_sample)
    loss.loss.backward()
    losses = [loss.loss, loss.per_sample]
    for name in made.opponents:
        losses.append(made.opposing_loss(name, step))
        losses[-1].backward()
    gradients = [p.grad for p in denoiser.parameters()]
    denoiser.zero_grad()
    return [inside(x) for x in (*losses, *gradients, bins.total, bins.count)]


def walked(denoiser, sampler, device, *, steps=4, plan=None, given=None, side=SIDE):
    """Images of a walk, and what it waited for."""
    noise = SeedBlock([0, 1])
    with pretend_cuda():
        denoiser = denoiser.to(device).eval()
        given = Given() if given is None else given.to(device)
        process = denoiser.process if given.image is None else unconditioned(denoiser.process)
        channels = denoiser.latent_shape[0] if hasattr(denoiser, "latent_shape") else 1
        u = sampler.prior(process, (2, channels, side, side), steps, noise, device=device, dtype=torch.float32)
        waits.clear()
        found = sampler(denoiser, u, steps=steps, generator=noise, plan=plan, given=given)
        assert found.images.device.type == device
        return inside(found.images), waits.copy()


COARSE = {"rk45": ":atol=1e6"}
"""Options with which a walk is short."""


STEPS_AT_WILL = ("vp", "cld", "multiscale")
"""Processes that an adaptive sampler is tried on: it takes many steps on others."""


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_walk_without_a_wait(process, sampler):
    """A walk waits once, in the end, to see whether its images are finite; an adaptive one also to choose its steps.

    What is given as a measurement is looked at before the first.
    """
    found, walk = {}, create_sampler(sampler + COARSE.get(sampler, ""))
    if walk.adaptive and process not in STEPS_AT_WILL:
        pytest.skip("many steps")
    for device in DEVICES:
        denoiser = small_denoiser(process)
        given = Given(image=small_condition(denoiser))
        steps = denoiser.process.levels if isinstance(denoiser.process, Halving) else 4
        try:
            walked(denoiser, walk, device, steps=steps, given=given)  # tables go to the device
            found[device], waited = walked(denoiser, walk, device, steps=steps, given=given)
        except UserError:
            pytest.skip("it cannot walk it")
        except RuntimeError as error:
            if "functorch" in str(error) or "jvp" in str(error) or "batched" in str(error):
                pytest.skip("torch.func.jvp takes no tensor subclass")
            raise
        if not walk.adaptive:
            looked = isinstance(denoiser.process, ConditionIsMeasurement)
            assert sum(waited.values()) <= 1 + looked, waited
    assert torch.equal(found["cpu"], found["cuda"])


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
        found[device], waited = walked(
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
        found[device], waited = walked(
            denoiser, create_sampler("ddim"), device, plan=Plan(), given=denoiser.blank(2),
            side=denoiser.latent_shape[-1],
        )  # fmt: skip
        assert sum(waited.values()) <= 1, waited
    torch.testing.assert_close(found["cuda"], found["cpu"])
