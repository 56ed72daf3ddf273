"""The discriminator: published sizes, and what its answer depends on."""

import pytest
import torch

from denoisezoo.archs.backbone import ImageSpec
from denoisezoo.archs.discriminator import PUBLISHED, Discriminator, DiscriminatorConfig, spread_in_groups
from denoisezoo.errors import UserError

SMALL = DiscriminatorConfig(channels=8, widths=(12, 16), dropout=0.0)


@pytest.mark.parametrize(("resolution", "classes", "millions"), [(32, 10, 18.95), (64, 0, 23.86)])
def test_published_sizes(resolution, classes, millions):
    with torch.device("meta"):
        network = Discriminator(PUBLISHED, ImageSpec(resolution=resolution, num_classes=classes))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_it_judges_images_of_every_level():
    network = Discriminator(SMALL, ImageSpec(resolution=16, num_classes=3))
    for side in (16, 8, 4):
        assert network(torch.randn(6, 3, side, side), torch.rand(6), torch.arange(6) % 3).shape == (6,)


def test_it_depends_on_image_time_and_class():
    network = Discriminator(SMALL, ImageSpec(resolution=16, num_classes=3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    image, c_noise, label = torch.randn(1, 3, 16, 16), torch.tensor([0.2]), torch.tensor([1])
    first = network(image, c_noise, label)
    for other in (
        network(image + 0.5, c_noise, label),
        network(image, c_noise + 0.3, label),
        network(image, c_noise, label + 1),
    ):
        assert (other - first).abs() > 1e-4


def test_spread_in_groups_is_that_of_its_definition():
    """Groups of images i, i + B/4, ...; batches that four does not divide have smaller groups."""
    h = torch.randn(8, 2, 3, 3, dtype=torch.float64)
    for i in (0, 1):
        members = h[[i, i + 2, i + 4, i + 6]]
        expected = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(spread_in_groups(h)[i + 4], expected.expand(1, 3, 3))
    assert spread_in_groups(h[:6]).shape == (6, 1, 3, 3)
    assert float(spread_in_groups(h[:1]).abs().max()) == pytest.approx(1e-4)


@pytest.mark.parametrize("values", [{"channels": 6}, {"widths": ()}, {"widths": (3,)}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(values):
    with pytest.raises(UserError, match="discriminator"):
        Discriminator(DiscriminatorConfig(**values), ImageSpec())
