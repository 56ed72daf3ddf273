from __future__ import annotations

import numpy as np
import pytest
import torch

from denoisezoo.errors import UserError
from denoisezoo.evaluation.neighbours import memorisation, neighbour_grid, training_neighbours
from denoisezoo.pixels import to_float


@pytest.fixture
def training() -> torch.Tensor:
    return torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fresh() -> torch.Tensor:
    return torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_nearest_training_images_are_found_with_their_distance(training):
    distances, indices = training_neighbours(training[[7, 3]], training, 3)
    assert indices[:, 0].tolist() == [7, 3]
    assert distances[:, 0].max() < 1e-7
    x = to_float(training)
    for row, index in zip(distances, indices, strict=True):
        expected = (x[index] - x[index[0]]).square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(row, expected.double(), rtol=1e-6, atol=1e-7)


def test_distances_are_in_units_of_the_image_range():
    black, white = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert training_neighbours(black, white, 1)[0].item() == pytest.approx(2.0)


def test_copies_are_told_from_new_images(training, fresh):
    held_out, new = fresh[:15], fresh[15:]
    copies = memorisation(to_float(training[:15]), training, held_out)
    assert copies == {"nn_ratio": pytest.approx(0, abs=1e-6), "memorised_share": 1.0, "nearer_than_held_out": 1.0}
    novel = memorisation(new, training, held_out)
    assert novel["memorised_share"] == 0
    assert novel["nn_ratio"] > 0.8
    assert 0.2 < novel["nearer_than_held_out"] < 0.8


def test_half_copies_are_counted_by_halves(training, fresh):
    mixed = torch.cat([training[:10], fresh[:10]])
    assert memorisation(mixed, training)["memorised_share"] == 0.5
    assert "nearer_than_held_out" not in memorisation(mixed, training)


def test_the_same_images_are_as_near_as_the_held_out_ones(training, fresh):
    assert memorisation(fresh, training, fresh)["nearer_than_held_out"] == pytest.approx(0.5)


def test_nearer_than_held_out_is_the_share_of_pairs(training, fresh):
    a, b = fresh[:12], fresh[12:]
    near_a, near_b = (training_neighbours(x, training, 1)[0][:, 0] for x in (a, b))
    pairs = (near_a[:, None] < near_b).double().mean()
    assert memorisation(a, training, b)["nearer_than_held_out"] == pytest.approx(float(pairs))


def test_copies_of_an_image_that_is_twice_in_the_training_set(training):
    twice = torch.cat([training, training[:1]])
    assert memorisation(training[:1], twice) == {"nn_ratio": 0.0, "memorised_share": 1.0}


def test_the_picture_shows_each_sample_beside_its_neighbours(training):
    grid = neighbour_grid(training[[5, 9]], training, k=2, scale=1)
    assert grid.shape == (2 * 10 + 2, 4 * 10 + 2, 3)
    assert grid.dtype == np.uint8
    for row, index in enumerate((5, 9)):
        tile = training[index, 0].numpy()
        top = 2 + 10 * row
        assert (grid[top : top + 8, 2:10, 0] == tile).all()
        assert (grid[top : top + 8, 10:22] == 255).all()
        assert (grid[top : top + 8, 22:30, 0] == tile).all()  # the nearest is the image itself


def test_errors(training):
    with pytest.raises(UserError, match=r"shape \(1, 4, 4\) and training images of shape \(1, 8, 8\) cannot"):
        memorisation(training[:, :, :4, :4], training)
    with pytest.raises(UserError, match="1 training images have no 2 nearest neighbours"):
        memorisation(training, training[:1])
