import math

import pytest
import torch

from denoisezoo.diffusion import Denoiser, Guided, Prediction, create_denoiser
from denoisezoo.diffusion.guidance import guided
from denoisezoo.diffusion.processes.scalar import VP, VPCosine
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given


class Known(Denoiser):
    """Answers label + 1 for a class, 0.25 for none, and notes its calls."""

    def __init__(self):
        super().__init__()
        self.process, self.labels = VP(), []

    def forward(self, u_t, t, given=NOTHING, effort=None):
        label = given.label
        self.labels.append(label)
        value = 0.25 if label is None else (label + 1.0).reshape(-1, 1, 1, 1)
        return Prediction(torch.zeros_like(u_t) + value, torch.zeros_like(u_t) - value)


U, T, LABEL = torch.zeros(2, 1, 2, 2), torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0, 3])


def test_extrapolates_from_no_label_to_label():
    found = Guided(Known(), 3.0)(U, T, Given(label=LABEL))
    expected = torch.tensor([0.25 + 3 * (1 - 0.25), 0.25 + 3 * (4 - 0.25)])
    assert torch.equal(found.u_0[:, 0, 0, 0], expected)
    assert torch.equal(found.eps[:, 0, 0, 0], -expected)


def test_one_call_where_guidance_changes_nothing():
    for scale, label, calls in [(1.0, LABEL, 1), (2.0, None, 1), (2.0, LABEL, 2), (0.0, LABEL, 2)]:
        known = Known()
        Guided(known, scale)(U, T, Given(label=label))
        assert len(known.labels) == calls


def test_interval_of_noise_levels():
    sigma = math.exp(-float(VP().log_snr(T[:1])) / 2)
    limits = [(0, math.inf, 2), (sigma * 1.01, math.inf, 1), (0, sigma * 0.99, 1), (sigma / 2, sigma * 2, 2)]
    limits += [(sigma * (1 + 1e-12), math.inf, 2), (0, sigma * (1 - 1e-12), 2)]  # the level itself, up to rounding
    for low, high, calls in limits:
        known = Known()
        Guided(known, 2.0, sigma_min=low, sigma_max=high)(U, T, Given(label=LABEL))
        assert len(known.labels) == calls


def test_each_image_is_guided_by_its_own_noise_level():
    """As under `Measured`, where the channel gives every image a level of its own."""
    t = torch.tensor([0.2, 0.8], dtype=torch.float64)
    low, high = torch.exp(-VP().log_snr(t) / 2).tolist()
    between = math.sqrt(low * high)
    free, plain = 0.25, [1.0, 4.0]
    led = [free + 3 * (value - free) for value in plain]
    for limits, expected in [((0, between), [led[0], plain[1]]), ((between, math.inf), [plain[0], led[1]])]:
        found = Guided(Known(), 3.0, sigma_min=limits[0], sigma_max=limits[1])(U, t, Given(label=LABEL))
        assert found.u_0[:, 0, 0, 0].tolist() == expected
        assert found.eps[:, 0, 0, 0].tolist() == [-value for value in expected]


@pytest.mark.parametrize(("scale", "low", "high"), [(math.nan, 0, 1), (2, 1, 1), (2, -1, 1)])
def test_nonsense_is_refused(scale, low, high):
    with pytest.raises(UserError):
        Guided(Known(), scale, sigma_min=low, sigma_max=high)


class Fixed(Known):
    """A guide: answers its value, and notes what labels it was told."""

    def __init__(self, value, labelled=False, process=None):
        super().__init__()
        self.value, self.labelled, self.process = value, labelled, process or VP()

    def blank(self, batch_size=1, device=None):
        return Given(label=torch.zeros(1, dtype=torch.int64)) if self.labelled else NOTHING

    def forward(self, u_t, t, given=NOTHING, effort=None):
        self.labels.append(given.label)
        return Prediction(torch.full_like(u_t, self.value), torch.full_like(u_t, -self.value))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("label", [None, LABEL])
def test_a_guide_takes_the_place_of_the_network_without_its_label(labelled, label):
    known, guide = Known(), Fixed(0.75, labelled)
    found = Guided(known, 1.5, guide=guide)(U, T, Given(label=label))
    plain = torch.tensor([0.25, 0.25]) if label is None else label + 1.0
    torch.testing.assert_close(found.u_0[:, 0, 0, 0], 0.75 + 1.5 * (plain - 0.75))
    torch.testing.assert_close(found.eps, -found.u_0)
    assert len(known.labels) == len(guide.labels) == 1
    assert guide.labels[0] is (label if labelled else None)


def test_guides_of_other_processes_sizes_and_without_a_scale_are_refused():
    for process in (VPCosine(), VP(beta_max=10.0)):
        with pytest.raises(UserError, match="different processes") as caught:
            Guided(Known(), 2.0, guide=Fixed(0.0, process=process))
        assert "\n" not in str(caught.value)
    small, large = (create_denoiser("edm2_tiny", resolution=size) for size in (8, 16))
    with pytest.raises(UserError, match=r"the guide makes images of shape \(3, 16, 16\), and the network \(3, 8, 8\)"):
        guided(small, 2.0, guide=large)
    with pytest.raises(UserError, match="without a scale"):
        guided(small, None, guide=small)
    assert guided(small, 2.0, guide=create_denoiser("ddpm_tiny", cond_channels=1)).guide is not None
