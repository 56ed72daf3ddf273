"""EDM2's loss against its formula, and the u(sigma) that is trained, saved and averaged beside a network or in it."""

import pytest
import torch

from denoisezoo.archs import create_backbone
from denoisezoo.diffusion import EDM, MultiScale, Step, create_denoiser
from denoisezoo.diffusion.objectives.regression import EDMLoss
from denoisezoo.diffusion.objectives.uncertainty import EDM2Loss, c_noise
from denoisezoo.errors import UserError
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.fit import train


def losses(objective, denoiser):
    """The loss of a batch, and EDM's own of the same batch, times and noise."""
    image = torch.randn(64, *denoiser.image_shape, generator=torch.Generator().manual_seed(1))
    steps = [Step(denoiser, {"image": image}, torch.Generator().manual_seed(2)) for _ in range(2)]
    return objective(steps[0]), EDMLoss(objective.times.P_mean, objective.times.P_std)(steps[1])


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return create_denoiser("ddpm_tiny", process="edm", cond_channels=0, augment_dim=0, dropout=0.0)


def test_without_certainty_it_is_edms_loss(denoiser):
    objective = EDM2Loss()
    network = objective.modules(denoiser)["uncertainty"]
    with torch.no_grad():
        network.linear.weight.zero_()  # u = 0 everywhere
    ours, plain = losses(objective, denoiser)
    torch.testing.assert_close(ours.loss, plain.loss)
    assert torch.equal(ours.per_sample, plain.per_sample)


def test_it_is_the_formula_of_the_paper(denoiser):
    objective = EDM2Loss(P_mean=-0.8, P_std=1.6)
    network = objective.modules(denoiser)["uncertainty"]
    ours, plain = losses(objective, denoiser)
    sigma = torch.exp(-EDM().log_snr(plain.t) / 2)  # relative to the image, which EDM leaves as it is
    torch.testing.assert_close(c_noise(denoiser.process, plain.t), (sigma.log() / 4).float())
    u = network((sigma.log() / 4).float())
    torch.testing.assert_close(ours.loss, (plain.per_sample * torch.exp(-u) + u).mean())
    assert u.std() > 0.1


def test_where_u_is_the_logarithm_of_the_error_its_gradient_is_zero(denoiser):
    """That minimum is unique: the second derivative in u is error exp(-u)."""
    objective = EDM2Loss()
    objective.modules(denoiser)
    _, plain = losses(objective, denoiser)
    u = plain.per_sample.log().requires_grad_()
    objective._uncertainty = lambda _: u
    ours, _ = losses(objective, denoiser)
    (gradient,) = torch.autograd.grad(ours.loss, u)
    assert gradient.abs().max() < 1e-6


def test_a_network_with_its_own_u_is_trained_with_that():
    denoiser = create_denoiser(create_backbone("edm2_tiny"), process="edm")
    head = denoiser.backbone.uncertainty
    assert not any(p.requires_grad for p in head.parameters())
    objective = EDM2Loss()
    assert objective.modules(denoiser) == {}
    assert objective._uncertainty is head
    assert all(p.requires_grad for p in head.parameters())


def test_what_it_cannot_serve():
    with pytest.raises(UserError, match="one noise level"):
        EDM2Loss().check(create_denoiser("multiscale_tiny", process=MultiScale(resolution=8, levels=1)))
    with pytest.raises(UserError, match="features is 0"):
        EDM2Loss(features=0)


@pytest.mark.parametrize("name", ["edm2_tiny", "ddpm_tiny"])
def test_u_is_trained_normalised_saved_and_averaged(name, arguments, tmp_path):
    more = ["--model.denoiser", name, "--model.objective", "EDM2Loss", "--model.optimizer.lr", 0.01]
    train(arguments(*more))
    found = [read_checkpoint(tmp_path / "run" / "checkpoints" / f"step_{n:08d}.ckpt") for n in (2, 4)]
    (key,) = [key for key in found[0]["state_dict"] if key.endswith("uncertainty.linear.weight")]
    raw = [state["current_model_state"][key] for state in found]
    assert not torch.equal(*raw)
    assert not torch.equal(found[1]["state_dict"][key], raw[1])
    for weight in raw:
        assert float(weight.square().mean().sqrt()) == pytest.approx(1, abs=3e-4)
    held = {key for key in found[1]["current_model_state"] if "weight" in key and "edm2" in name}
    for key in held:
        rms = found[1]["current_model_state"][key].flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(rms, torch.ones_like(rms), rtol=3e-4, atol=0)
