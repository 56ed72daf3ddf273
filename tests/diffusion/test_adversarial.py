"""UDPM's losses against their formulas, written out anew."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denoisezoo.archs import create_backbone
from denoisezoo.archs.discriminator import DiscriminatorConfig
from denoisezoo.diffusion import DownSampling, NetworkDenoiser, UDPMLoss
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.halving_preconditioning import NextScale
from denoisezoo.diffusion.objectives.adversarial import perceptual_distance
from denoisezoo.diffusion.objectives.objective import Step
from denoisezoo.diffusion.preconditioning import X0
from denoisezoo.diffusion.processes.scalar import VP
from denoisezoo.errors import UserError

f64 = torch.float64
BATCH = {"image": torch.rand(4, 1, 8, 8, dtype=f64, generator=torch.Generator().manual_seed(0)) * 2 - 1}


class Half(Denoiser):
    """Answers half of the clean state that it should."""

    def __init__(self, process):
        super().__init__()
        self.process, self.weight = process, nn.Parameter(torch.tensor(0.5, dtype=f64))

    def forward(self, u_t, t, *given):
        u_0 = self.process.down(self.process.basis.encode(BATCH["image"]), int(t[0]) - 1)
        return Prediction(self.weight * u_0, u_t)


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2, whose gradient is a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3, dtype=f64))

    def forward(self, image, c_noise, label=None):
        return self.a * image.square().sum((1, 2, 3)) / 2


class Product(Quadratic):
    """D(x, y) = a <x, y> of the two halves of its channels, whose gradient in x is a y."""

    def forward(self, image, c_noise, label=None):
        x, y = image.chunk(2, dim=1)
        return self.a * (x * y).sum((1, 2, 3))


def means(level):
    """Block means of the batch at a level, by pooling."""
    return F.avg_pool2d(BATCH["image"], 2 ** (level - 1)) if level > 1 else BATCH["image"]


def levels_seen(objective, call):
    """Seed -> level for seeds until every level was drawn."""
    found = {}
    for seed in range(60):
        found.setdefault(call(torch.Generator().manual_seed(seed)), seed)
    assert sorted(found) == list(range(1, len(objective.l1) + 1))
    return found


@pytest.fixture
def objective():
    found = UDPMLoss(noise=0.0)
    found.adversary, found.features = Quadratic(), lambda x: [x, F.avg_pool2d(x, 2)]
    return found


def test_the_denoiser_s_loss(objective):
    denoiser = Half(DownSampling(8))
    seeds = levels_seen(objective, lambda g: int(objective(Step(denoiser, BATCH, g)).t[0]))
    for level, seed in seeds.items():
        loss = objective(Step(denoiser, BATCH, torch.Generator().manual_seed(seed)))
        real, i = means(level), level - 1
        expected = objective.l1[i] * (real / 2).abs().mean()
        # The features of half an image point where those of the image do: no perceptual distance.
        judged = 0.3 * (real / 2).square().sum((1, 2, 3)) / 2
        expected = expected + objective.adversarial[i] * torch.log1p(torch.exp(-judged)).mean()
        torch.testing.assert_close(loss.loss, expected)
        torch.testing.assert_close(loss.per_sample.double(), (real / 2).square().mean((1, 2, 3)), rtol=1e-5, atol=0)


def test_the_adversary_s_loss(objective):
    denoiser = Half(DownSampling(8))
    for seed in range(6):
        level = objective._level(Step(denoiser, BATCH, torch.Generator().manual_seed(seed)))
        found = objective.opposing_loss("adversary", Step(denoiser, BATCH, torch.Generator().manual_seed(seed)))
        real, fake = means(level), means(level) / 2
        on_real, on_fake = (0.3 * x.square().sum((1, 2, 3)) / 2 for x in (real, fake))
        expected = (torch.log1p(torch.exp(-on_real)).mean() + torch.log1p(torch.exp(on_fake)).mean()) / 2
        expected = expected + objective.r1[level - 1] / 2 * (0.3 * real).square().sum((1, 2, 3)).mean()
        torch.testing.assert_close(found, expected)
    found.backward()
    assert denoiser.weight.grad is None
    assert objective.adversary.a.grad is not None


def test_the_adversary_learns_where_it_is_listened_to_alone():
    objective = UDPMLoss(noise=0.0, l1=[1.0, 1.0, 0.0], adversarial=[0.0, 0.2, 1.0])
    objective.adversary, denoiser = Quadratic(), Half(DownSampling(8))
    for level, learns in ((1, False), (2, True), (3, True)):
        objective.adversary.zero_grad()
        loss = objective._adversary_loss(Step(denoiser, BATCH), level)
        loss.backward()
        assert (float(loss) != 0) == learns
        assert (float(objective.adversary.a.grad) != 0) == learns


def test_in_pairs_the_discriminator_sees_what_an_image_was_made_from():
    objective = UDPMLoss(noise=0.0, pairs=True, perceptual=[0.0] * 3, l1=[0.0] * 3)
    objective.adversary = Product()
    denoiser = Half(DownSampling(8, sigmas=[1e-12] * 3))  # without noise x_l shows the means of larger blocks
    seeds = levels_seen(objective, lambda g: int(objective(Step(denoiser, BATCH, g)).t[0]))
    for level, seed in seeds.items():
        real, below = means(level), means(level + 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        on_real, on_fake = (0.3 * (x * below).sum((1, 2, 3)) for x in (real, real / 2))
        loss = objective(Step(denoiser, BATCH, torch.Generator().manual_seed(seed))).loss
        expected = objective.adversarial[level - 1] * torch.log1p(torch.exp(-on_fake)).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        found = objective.opposing_loss("adversary", Step(denoiser, BATCH, torch.Generator().manual_seed(seed)))
        expected = (torch.log1p(torch.exp(-on_real)).mean() + torch.log1p(torch.exp(on_fake)).mean()) / 2
        expected = expected + objective.r1[level - 1] / 2 * (0.3 * below).square().sum((1, 2, 3)).mean()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_in_pairs_noise_alone_is_shown_at_unit_variance():
    objective = UDPMLoss(pairs=True)
    denoiser = NetworkDenoiser(create_backbone("udpm_digits"), DownSampling(16), NextScale())
    pair = objective._pair(Step(denoiser, {"image": torch.zeros(64, 1, 16, 16)}, torch.Generator().manual_seed(0)), 3)
    assert pair.seen is not None
    assert pair.seen.shape == pair.real.shape
    assert float(pair.seen[..., ::2, ::2].std()) == pytest.approx(1, rel=0.2)
    torch.testing.assert_close(pair.seen[..., ::2, ::2], pair.seen[..., 1::2, 1::2])


def test_what_the_discriminator_sees_is_noisy_less_and_less():
    objective = UDPMLoss()
    for number, std in ((0, 0.4), (1000, 0.396), (600_000, 0.4 * 0.99**600)):
        step = Step(Half(DownSampling(8)), BATCH, torch.Generator().manual_seed(0), number=number)
        seen = objective._noisy(torch.zeros(200, 1, 16, 16), step)
        assert float(seen.std()) == pytest.approx(std, rel=0.01)


def test_perceptual_distance_sees_directions_alone():
    a = torch.zeros(2, 2, 3, 3)
    a[:, 0] = 1.0
    b = 5 * a
    assert float(perceptual_distance(lambda x: [x], a, b)) == pytest.approx(0, abs=1e-6)
    assert float(perceptual_distance(lambda x: [x], a, a.flip(1))) == pytest.approx(2)  # |(1, 0) - (0, 1)|^2
    assert float(perceptual_distance(lambda x: [x, x[:, :1]], a, a.flip(1))) == pytest.approx((2 + 1) / 2)


def test_without_adversarial_weights_there_is_no_discriminator():
    net = create_backbone("udpm_tiny")
    denoiser = NetworkDenoiser(net, DownSampling(16), NextScale())
    assert UDPMLoss(adversarial=[0.0, 0.0, 0.0], l1=[1.0, 1.0, 1.0]).modules(denoiser) == {}
    sizes = DiscriminatorConfig(channels=8, widths=(8,))
    published = UDPMLoss(discriminator=sizes).modules(denoiser)["adversary"]
    pairs = UDPMLoss(discriminator=sizes, pairs=True).modules(denoiser)["adversary"]
    assert [net.stem.weight.shape[1] for net in (published, pairs)] == [3, 6]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"l1": [1.0, 1.0]}, "perceptual"),
        ({"r1": [1.0, -1.0, 0.0]}, "r1"),
        ({"adversarial": [0.2, 0.5, 0.0]}, "level 3 has no loss"),
        ({"noise": -0.1}, "noise"),
        ({"shares": [1.0, 1.0]}, "shares"),
        ({"shares": [1.0, 0.0, 1.0]}, "shares"),
        ({"noise_decay": 1.5}, "noise_decay"),
        ({"discriminator": DiscriminatorConfig(channels=2)}, "discriminator"),
    ],
)
def test_wrong_values_are_refused(values, words):
    with pytest.raises(UserError, match=words) as caught:
        UDPMLoss(**values)
    assert "\n" not in str(caught.value)


def test_other_processes_and_levels_are_refused():
    with pytest.raises(UserError, match="DownSampling"):
        UDPMLoss().check(NetworkDenoiser(create_backbone("ddpm_tiny"), VP(), X0()))
    two = DownSampling(16, alphas=[0.5, 0.2], sigmas=[0.1, 0.2])
    with pytest.raises(UserError, match="2"):
        UDPMLoss().check(NetworkDenoiser(create_backbone("udpm_tiny"), two, NextScale()))


@pytest.mark.parametrize(("shares", "expected"), [(None, [300, 300, 300]), ([1.0, 2.0, 6.0], [100, 200, 600])])
def test_levels_are_drawn_as_often_as_told(shares, expected):
    objective, g = UDPMLoss(shares=shares), torch.Generator().manual_seed(0)
    drawn = torch.tensor([objective._level(Step(Half(DownSampling(8)), BATCH, g)) for _ in range(900)])
    counts = torch.bincount(drawn, minlength=4)[1:]
    assert (counts - torch.tensor(expected)).abs().max() < 4.5 * math.sqrt(200)
    rehearsed = [r.share for r in objective.cases(Step(Half(DownSampling(8)), BATCH))]
    assert rehearsed == pytest.approx([n / 900 for n in expected])
