"""The channel as a task: powers, levels and laws of what it adds, and what is refused."""

import math

import pytest
import torch

from denoisezoo.data import Channel, Digits, Paired
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_float


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=2000, power=0.49):
    """Pixels of -0.7 and 0.7."""
    return (2 * (torch.rand(n, 1, 8, 8, generator=generator(9)) > 0.5).float() - 1) * power**0.5


def noise_of(task, x):
    """What zero forcing leaves, in units of the level that is told."""
    received = task.receive(x, generator())
    return (received.y - x) / received.sigma, received


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize("snr_db", [-20.0, -5.0, 20.0])
def test_the_snr_is_that_of_symbols_of_unit_power(snr_db, noise):
    """sigma^2 = power / SNR, and the noise is as large as is said."""
    z, received = noise_of(Channel(snr_db, noise=noise, power=0.49), images())
    torch.testing.assert_close(received.sigma, torch.full((2000, 1, 8, 1), (0.49 / 10 ** (snr_db / 10)) ** 0.5))
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.square().mean().item() == pytest.approx(1, abs=0.02)
    assert z.pow(4).mean().item() == pytest.approx(6 if noise == "laplace" else 3, rel=0.05)  # kurtosis


def test_hardware_adds_its_share_at_every_snr():
    """sigma^2 = power (kappa_tx^2 + kappa_rx^2 + 1/SNR)."""
    z, received = noise_of(Channel(20.0, transmitter=0.3, receiver=0.1, power=0.49), images())
    assert received.sigma.square().unique().item() == pytest.approx(0.49 * (0.09 + 0.01 + 0.01))
    assert z.square().mean().item() == pytest.approx(1, abs=0.02)


def test_rayleigh_fades_are_exponential_and_known():
    task = Channel(0.0, fading="rayleigh", blocks=4)
    z, received = noise_of(task, images(20_000))
    gain = 1 / received.sigma.square()[:, 0, :, 0]  # h^2 / power, power 1
    assert torch.equal(gain[:, 0], gain[:, 1])  # two rows of a band
    assert (gain[:, 1] != gain[:, 2]).all()
    assert gain.mean().item() == pytest.approx(1, abs=0.02)
    assert (gain < 0.1).float().mean().item() == pytest.approx(1 - math.exp(-0.1), abs=0.005)
    assert z.square().mean().item() == pytest.approx(1, abs=0.02)
    whole = Channel(0.0, fading="rayleigh").receive(images(), generator()).sigma
    assert whole.std(2).max() == 0


def test_a_range_of_snrs_is_uniform_in_db():
    sigma = Channel([-20, 20]).receive(images(20_000), generator()).sigma[:, 0, 0, 0]
    db = -20 * sigma.log10()
    assert db.min() >= -20
    assert db.max() <= 20
    assert db.mean().item() == pytest.approx(0, abs=0.3)
    assert db.std().item() == pytest.approx(40 / 12**0.5, rel=0.02)


def test_equalisers_show_the_same_draws():
    x = images()
    zero_forcing, told = Channel(-5.0, power=0.49, equaliser="zero_forcing")(x, generator()).y.split(1, 1)
    unit, _ = Channel(-5.0, power=0.49)(x, generator()).y.split(1, 1)
    assert told.unique().item() == pytest.approx(math.log(0.7 / 10**-0.25), abs=1e-6)
    torch.testing.assert_close(unit * (1 + 10**0.5) ** 0.5, zero_forcing)
    assert unit.square().mean().item() == pytest.approx(0.49, rel=0.02)  # that of the image
    assert Channel(-5.0, tell=False)(x, generator()).y.shape == x.shape


def test_the_same_image_has_the_same_noise_at_every_snr():
    data = [
        Paired(data=Digits(batch_size=8), task=Channel(snr, equaliser="zero_forcing", power=0.645))
        for snr in (-20.0, 20.0)
    ]
    for each in data:
        each.setup()
    noisy, clear = (each.held_out_pairs(3) for each in data)
    torch.testing.assert_close((noisy.y[:, :1] - noisy.x) / 100, clear.y[:, :1] - clear.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"snr_db": [20.0, -20.0]}, "snr_db"),
        ({"snr_db": [1.0, 2.0, 3.0]}, "snr_db"),
        ({"snr_db": float("nan")}, "snr_db"),
        ({"transmitter": 0.4}, "kappa of the transmitter"),
        ({"receiver": -0.1}, "kappa of the receiver"),
        ({"fading": "raileigh"}, "rayleigh"),
        ({"noise": "gausian"}, "gaussian"),
        ({"equaliser": "mmse"}, "unknown equaliser"),
        ({"blocks": 4}, "blocks"),
        ({"power": 0.0}, "power"),
    ],
)
def test_nonsense_is_refused_in_one_line(options, word):
    with pytest.raises(UserError, match=word) as caught:
        Channel(**options)
    assert "\n" not in str(caught.value)


def test_the_power_is_that_of_the_data():
    true = float(to_float(Digits().images()).square().mean())
    assert true == pytest.approx(0.645, abs=0.001)  # what the recipes and docs/channel.md say
    for power, right in ((1.0, False), (0.3, False), (0.65, True), (true * 1.09, True), (true / 1.11, False)):
        data = Paired(data=Digits(batch_size=8), task=Channel(power=power))
        if right:
            data.setup()
        else:
            for _ in range(2):  # not only when it is first asked
                with pytest.raises(UserError, match=r"of these data is 0\.64.; give power 0\.64"):
                    data.held_out_pairs(1)


def test_blocks_that_do_not_divide_the_rows():
    with pytest.raises(UserError, match="3 blocks do not divide 16 rows"):
        Paired(data=Digits(batch_size=8), task=Channel(fading="rayleigh", blocks=3))
