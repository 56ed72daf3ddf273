from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.errors import UserError
from denoisezoo.pictures import image_grid, save_grid


def test_each_pixel_becomes_a_square_in_its_place():
    images = torch.arange(3 * 4, dtype=torch.uint8).view(3, 1, 2, 2) * 20
    grid = image_grid(images, columns=2, scale=3, gap=1, background=255)
    assert grid.shape == (2 * 7 + 1, 2 * 7 + 1, 3)
    assert (grid[0] == 255).all()
    assert (grid[8:, 8:] == 255).all()  # the place that no image takes
    for n, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        tile = grid[1 + 7 * row : 7 + 7 * row, 1 + 7 * column : 7 + 7 * column, 1]
        assert (tile == np.kron(images[n, 0].numpy(), np.ones((3, 3)))).all()


@pytest.mark.parametrize(("size", "scale"), [(8, 8), (16, 4), (40, 2), (64, 1), (128, 1)])
def test_small_images_are_magnified_to_be_legible(size, scale):
    assert image_grid(torch.zeros(1, 1, size, size), gap=0).shape == (size * scale, size * scale, 3)


def test_colours_and_float_images():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert (image_grid(red, gap=0) == [255, 0, 0]).all()


def test_the_default_is_as_square_as_it_can_be():
    assert image_grid(torch.zeros(10, 1, 64, 64), gap=0).shape == (3 * 64, 4 * 64, 3)


def test_a_saved_grid_is_a_png_with_those_pixels(tmp_path):
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    path = tmp_path / "new" / "grid.png"
    save_grid(images, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == image_grid(images)).all()
    assert os.listdir(path.parent) == ["grid.png"]


def test_errors(tmp_path):
    for shape in [(0, 1, 4, 4), (2, 5, 4, 4), (1, 4, 4)]:
        with pytest.raises(UserError, match="a grid cannot be made of images of shape"):
            image_grid(torch.zeros(shape))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "file" / "grid.png")
