from __future__ import annotations

import torch

from denoisezoo.pixels import to_float, to_uint8


def test_every_pixel_value_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)


def test_values_follow_the_formula_and_are_clipped():
    image = torch.tensor([-2.0, -1.0, -0.996, 0.0, 0.996, 1.0, 2.0])
    assert to_uint8(image).tolist() == [0, 0, 1, 128, 254, 255, 255]


def test_low_precision_is_converted_in_float32():
    image = torch.linspace(-1, 1, 101).bfloat16()
    assert torch.equal(to_uint8(image), to_uint8(image.float()))


def test_each_leaves_what_is_converted_already():
    pixels, image = torch.arange(4, dtype=torch.uint8), torch.rand(4)
    assert torch.equal(to_uint8(pixels), pixels)
    assert torch.equal(to_float(image), image)
