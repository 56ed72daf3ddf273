"""EDM's sampler against the code of its authors, run in float64 on Gaussian data.

All figures come from NVlabs/edm at 008a4e5: `ablation_sampler` of generate.py with a `net` that answers
0.3 + v / (v + sigma^2) (x - 0.3) for v = 0.25, from latents `LATENTS` and with `randn_like` a constant 0.5.
"""

import pytest
import torch

from denoisezoo.diffusion import GaussianOracle, SeedBlock, create_sampler
from denoisezoo.diffusion.processes.scalar import EDM, VP
from denoisezoo.diffusion.processes.vp_discrete import VPDiscrete
from denoisezoo.diffusion.samplers.edm import iddpm_levels

f64 = torch.float64
LATENTS = torch.tensor([[[[0.5, -1.0], [0.25, 1.5]]]], dtype=f64)


class Constant(SeedBlock):
    """Noise that is 0.5 everywhere."""

    def __init__(self):
        super().__init__([])

    def normal(self, shape):
        return torch.full(tuple(shape), 0.5)


def walked(spec, sigma_max=160.0, steps=6):
    """Images and the noise level of the first call of a walk on a network that is trained up to `sigma_max`."""
    process, sampler, calls = EDM(sigma_max=sigma_max), create_sampler(spec), []
    oracle = GaussianOracle(process, torch.full((1, 2, 2), 0.3, dtype=f64), 0.25 * torch.eye(4, dtype=f64))
    u_T = LATENTS * sampler.grid(process, steps)[0]
    images = sampler(oracle, u_T, steps=steps, generator=Constant(), on_step=calls.append).images
    return images.flatten().tolist(), calls[0].t


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("edm", [0.7233139549304077, -0.556224447881903, 0.510057554461688, 1.5763395568052763]),
        ("edm:scaling=vp", [0.5355479358037152, 0.27550819605827115, 0.49220797917947334, 0.7089077623006766]),
        (
            "edm:schedule=vp,discretization=vp",
            [5.399382909968114, -9.959325777166638, 2.839598128778962, 15.63852203472457],
        ),
        (
            "edm:schedule=vp,scaling=vp,discretization=vp",
            [0.5625993587347331, -0.25601948234741173, 0.426162885221046, 1.1083452527895101],
        ),
        (
            "edm:schedule=ve,discretization=ve",
            [-399.48531494364045, 807.1102029949112, -198.3860619538816, -1203.8823269026739],
        ),
    ],
)
def test_walks_end_as_theirs(spec, expected):
    """The last step is Euler's to 0 in the ODE's own time, which only for sigma(t) = t, unscaled, is D."""
    assert walked(spec)[0] == pytest.approx(expected, rel=1e-9)
    if spec != "edm":
        assert walked(spec + ("," if ":" in spec else ":") + "last=denoised")[0] != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "sigma_max", "first", "expected"),
    [
        (
            "edm:S_churn=30",
            80.0,
            113.13708498984761,
            [1.4633277034704855, 0.9816211498350478, 1.3830432778645845, 1.7844654058941227],
        ),
        (
            "edm:S_churn=30,schedule=vp,scaling=vp,discretization=vp",
            160.0,
            215.1965931207803,
            [0.9483730766403661, 0.7788573257397207, 0.9201204514902673, 1.061383577240814],
        ),
    ],
)
def test_churn_goes_above_the_first_level(spec, sigma_max, first, expected):
    """To (1 + gamma) times it with gamma = sqrt(2) - 1, where no network was trained, as theirs does."""
    found, sigma = walked(spec, sigma_max)
    assert sigma == pytest.approx(first, rel=1e-9)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("edm", [0.5618337261117696, -0.2296032293898012, 0.42992756686150785, 1.0894583631128163]),
        (
            "edm:S_churn=40,S_min=0.05,S_max=50,S_noise=1.003",
            [1.1466169712461163, 1.1164842278012985, 1.1415948473386468, 1.1667054668759944],
        ),
    ],
)
def test_eighteen_steps(spec, expected):
    """`edm_sampler` of generate.py, as published images were made."""
    assert walked(spec, steps=18)[0] == pytest.approx(expected, rel=1e-9)


def test_churn_ends_where_a_chain_ends():
    process, calls = VPDiscrete(), []
    oracle = GaussianOracle(process, torch.zeros(1, 2, 2, dtype=f64), torch.eye(4, dtype=f64))
    sampler = create_sampler("edm:S_churn=100,discretization=vp")
    u_T = sampler.prior(process, (1, 1, 2, 2), 6, torch.Generator().manual_seed(0))
    sampler(oracle, u_T, steps=6, generator=torch.Generator().manual_seed(0), on_step=calls.append)
    assert calls[0].t == 1000


def test_noise_is_added_at_a_level_that_is_the_limit():
    """sigma(t) of a schedule differs by rounding from the level that t is the time of."""
    low = create_sampler("edm:discretization=vp,schedule=vp").sigmas(VP(), 6)[3].item()
    spec = "edm:discretization=vp,schedule=vp,S_churn=30,S_min={},S_max={}"
    plain = walked("edm:discretization=vp,schedule=vp")[0]
    for factor in (1 - 1e-12, 1 + 1e-12):
        assert walked(spec.format(low * factor, low * factor))[0] != plain
    assert walked(spec.format(low * 1.001, low * 1.001))[0] == plain


def test_levels_of_a_vp_network_begin_where_it_is_trained():
    """`VPPrecond` has sigma_min = sigma(eps_t) = 0.001, below which none is asked for; sampling's eps_s is 0.0105."""
    theirs = {
        "edm": (
            *(80.0, 34.9921890047465, 13.698574682939958, 4.63707496868762),
            *(1.2866142695789209, 0.2674753613794615, 0.03518665099082092, 0.002000000000000003),
        ),
        "vp": (
            *(152.16697028394634, 40.401971229019075, 13.106689188114311, 5.139419942902357),
            *(2.350116971899815, 1.1523327907768528, 0.49590633818837715, 0.010485992786706403),
        ),
    }
    for kind, levels in theirs.items():
        found = create_sampler(f"edm:discretization={kind}").sigmas(VP(), 8).tolist()
        assert found == pytest.approx(list(levels), rel=1e-9)
    assert create_sampler("ddim:time_grid=edm").grid(VP(), 8)[-2].item() == pytest.approx(
        VP().t_of_sigma(torch.tensor(0.002, dtype=f64)).item()
    )


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (8, [992, 850, 709, 567, 426, 284, 143, 1]),
        (18, [992, 934, 875, 817, 759, 701, 642, 584, 526, 467, 409, 351, 292, 234, 176, 118, 59, 1]),
    ],
)
def test_steps_of_an_iddpm_network_are_theirs(steps, times):
    """1000 minus `round_sigma(sigma, return_index=True)` of `iDDPMPrecond` for the levels that it is asked at.

    Its levels are float32 sums with relative errors up to 4.8e-4; those here are exact.
    """
    sampler, process = create_sampler("edm:discretization=iddpm"), VPDiscrete("cosine")
    assert sampler.grid(process, steps).round().tolist() == [*times, 0]
    exact = iddpm_levels()[1000 - torch.tensor(times)]
    torch.testing.assert_close(sampler.sigmas(process, steps), exact, rtol=1e-9, atol=0)


def test_no_level_of_a_chain_is_lost_to_rounding():
    """All that lie between the limits: 992 of the 1,000, down to the chain's own first."""
    process = VPDiscrete("cosine")
    assert create_sampler("edm:discretization=iddpm").grid(process, 992).round().tolist() == list(range(992, -1, -1))
    alpha_bar = torch.cos(torch.pi / 2 * (torch.tensor([0.0, 0.001], dtype=f64) + 0.008) / 1.008) ** 2
    first = (alpha_bar[0] / alpha_bar[1] - 1).sqrt()  # sigma^2 = 1 / alpha_bar - 1 with alpha_bar(0) taken off
    assert create_sampler("edm:discretization=iddpm").sigmas(process, 18)[-1].item() == pytest.approx(
        first.item(), rel=1e-9
    )
