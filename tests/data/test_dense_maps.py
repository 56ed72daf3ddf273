"""Tasks that ask for a map of the image."""

import pytest
import torch

from denoisezoo.data import BlurredMap, Digits, EdgeMap, Paired, Photos, StrokeMask
from denoisezoo.data.edges import canny
from denoisezoo.errors import UserError
from denoisezoo.evaluation.reconstruction import iou


def test_masks_and_edges_are_of_the_clean_image():
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    pair = StrokeMask(level=0.1, noise=0.5)(image, torch.Generator().manual_seed(0))
    assert torch.equal(pair.x, torch.where(image.mean(1, keepdim=True) > 0.1, 1.0, -1.0))
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pair.y, image + 0.5 * noise)
    pair = EdgeMap()(image)
    assert torch.equal(pair.x > 0, canny(image, 0.1, 0.2))
    assert pair.y is image


def test_a_blurred_map_is_a_gaussian_mean_of_brightness():
    point = torch.full((1, 3, 33, 33), -1.0)
    point[..., 16, 16] = 1.0
    found = (BlurredMap(sigma=2.0).target(point) + 1) / 2
    place = torch.arange(33) - 16.0
    weight = torch.exp(-(place**2) / 8) * (place.abs() <= 6)
    weight = weight / weight.sum()
    assert torch.allclose(found[0, 0], weight[:, None] * weight, atol=1e-6)
    flat = torch.full((1, 1, 16, 16), 0.25)
    assert torch.allclose(BlurredMap().target(flat), flat)


def test_intersection_over_union_by_hand():
    a = torch.tensor([[1.0, 1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]]).reshape(3, 1, 2, 2)
    b = torch.tensor([[1.0, -1, 1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]]).reshape(3, 1, 2, 2)
    assert iou(a, b).tolist() == pytest.approx([1 / 3, 1, 1])


def test_data_of_a_map_have_its_channel_and_those_of_the_image_as_condition():
    data = Paired(data=Photos(resolution=32, batch_size=8, num_train=8, num_test=4), task=BlurredMap())
    assert (data.channels, data.cond_channels) == (1, 3)
    assert data.images("test").shape == (4, 1, 32, 32)
    assert data.pairs("test").y.shape == (4, 3, 32, 32)
    held_out = Paired(data=Digits(), task=StrokeMask())
    assert set(held_out.images("test").unique().tolist()) == {0, 255}
    assert torch.equal(held_out.pairs("test").y, held_out.pairs("test").y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StrokeMask(level=1.0), "level is 1"),
        (lambda: StrokeMask(noise=-1.0), "noise is -1"),
        (lambda: EdgeMap(low=0.3), "out of order"),
        (lambda: BlurredMap(sigma=0.0), "sigma is 0"),
        (lambda: Paired(data=Digits(), task=BlurredMap(sigma=6.0)), "sigma is 6, for 16 pixels"),
    ],
)
def test_what_is_out_of_range_is_one_line(build, message):
    with pytest.raises(UserError, match=message):
        build()
