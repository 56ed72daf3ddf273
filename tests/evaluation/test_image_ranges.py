"""Images of another type or range than the package's are refused or told of, by every figure that takes images."""

from __future__ import annotations

import pytest
import torch

from denoisezoo.diffusion import create_denoiser
from denoisezoo.diffusion.processes.scalar import EDM
from denoisezoo.errors import UserError
from denoisezoo.evaluation.features import create_features
from denoisezoo.evaluation.metrics import evaluate_images
from denoisezoo.evaluation.neighbours import memorisation, neighbour_grid, training_neighbours
from denoisezoo.evaluation.noise_curve import denoising_error
from denoisezoo.evaluation.reconstruction import (
    Pair,
    conditional_figures,
    consistency,
    cosine,
    diversity,
    means_of_draws,
    mse_db,
    psnr,
    reconstruction_figures,
    ssim,
)
from denoisezoo.pictures import image_grid
from denoisezoo.pixels import check_images, to_float, to_uint8

PIXELS = torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
GOOD = to_float(PIXELS)
INDEX = torch.arange(8) % 2


def of_conditions(x):
    return conditional_figures(x, Pair(GOOD, GOOD), INDEX, create_features("pixels"), Pair(GOOD, GOOD))


FIGURES = {
    "generated": lambda x: evaluate_images(x, PIXELS),
    "reference": lambda x: evaluate_images(PIXELS, x),
    "training": lambda x: evaluate_images(PIXELS, PIXELS, training=x),
    "held out": lambda x: evaluate_images(PIXELS, PIXELS, training=PIXELS, held_out=x),
    "features": lambda x: create_features("pixels16").extract(x),
    "neighbours": lambda x: training_neighbours(x, GOOD),
    "neighbours in": lambda x: training_neighbours(GOOD, x),
    "memorisation": lambda x: memorisation(GOOD, GOOD, x),
    "neighbour grid": lambda x: neighbour_grid(x, GOOD),
    "psnr": lambda x: psnr(x, GOOD),
    "psnr of": lambda x: psnr(GOOD, x),
    "ssim": lambda x: ssim(x, GOOD),
    "mse_db": lambda x: mse_db(GOOD, x),
    "cosine": lambda x: cosine(x, GOOD),
    "diversity": lambda x: diversity(x, INDEX, 4),
    "means": lambda x: means_of_draws(x, INDEX),
    "reconstruction": lambda x: reconstruction_figures(x, GOOD),
    "conditional": of_conditions,
    "consistency": lambda x: consistency(Pair(GOOD, GOOD), x),
}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("wrong", ["int64", "int16", "float of pixels"])
def test_every_figure_refuses_what_it_would_misread(figure, wrong):
    x = PIXELS.float() if wrong == "float of pixels" else PIXELS.to(getattr(torch, wrong))
    said = r"are float from \d+ to 25\d, as pixels are" if wrong == "float of pixels" else f"are {wrong}"
    with pytest.raises(UserError, match=rf"{said}; give uint8 from 0 to 255, or float in \[-1, 1\]"):
        FIGURES[figure](x)


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_takes_pixels_and_images_alike(figure):
    found, expected = FIGURES[figure](PIXELS), FIGURES[figure](GOOD)
    if isinstance(found, dict | float):
        assert found == pytest.approx(expected)
    else:
        for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
            torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b))


def test_the_noise_curve():
    with pytest.raises(UserError, match="are int64"):
        denoising_error(create_denoiser("ddpm_tiny", EDM()), PIXELS.long())


def test_pictures_and_both_conversions_refuse_integers():
    for use in (to_uint8, to_float, image_grid):
        with pytest.raises(UserError, match=r"are int64; give uint8"):
            use(PIXELS.long())


def test_samples_may_go_beyond_and_bright_images_are_images(capsys):
    check_images(GOOD * 3)
    check_images(torch.zeros(4, 1, 8, 8))  # what an untrained network may answer
    check_images(torch.ones(4, 1, 8, 8) * float("nan"))  # told of elsewhere, with the number of images
    check_images(GOOD[:0])
    assert capsys.readouterr().err == ""
    for _ in range(2):
        check_images((GOOD + 1) / 2, "pictures")
    said = "warning: none of the pictures has a value below 0; give uint8 from 0 to 255, or float in [-1, 1], which is"
    assert capsys.readouterr().err.count(said) == 1
