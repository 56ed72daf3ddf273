"""EDM's augmentation by its formulas: exact where pixels meet pixels, close where they do not."""

import math

import pytest
import torch
import torch.nn.functional as F

from denoisezoo.data import Digits
from denoisezoo.data.augmented import SYM6, Augmented, Drawn, draw, inverse_map, transform, warp
from denoisezoo.errors import UserError


def drawn(num=1, **parts):
    return Drawn(*(torch.full((num,), float(parts.get(name, 0))) for name in Drawn._fields))


def smooth(size=32):
    """Images that bilinear and wavelet resampling agree on: two slow waves."""
    x = torch.linspace(0, 1, size)
    return torch.stack([torch.sin(5 * x[None] + 3 * x[:, None]), torch.cos(2 * x[None] - 4 * x[:, None])])[None]


def test_the_filter_is_orthonormal():
    h = torch.tensor(SYM6, dtype=torch.float64)
    assert abs(h.sum() - math.sqrt(2)) < 1e-12
    for shift in range(6):
        product = (h[2 * shift :] * h[: len(h) - 2 * shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-11)


def test_flips_are_exact():
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(transform(x, drawn()), x)
    assert torch.equal(transform(x, drawn(x_flip=1)), x.flip(-1))
    assert torch.equal(transform(x, drawn(y_flip=1)), x.flip(-2))
    assert torch.equal(transform(x, drawn(x_flip=1, y_flip=1)), x.flip(-1, -2))


def test_nothing_done_is_the_identity_through_the_filters():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(warp(x, torch.eye(3, dtype=torch.float64).expand(2, 3, 3)), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-2, 0), (0, 3), (2, -1)])
def test_translations_by_whole_pixels_are_exact(x, y):
    """To the right and down for positive numbers, an eighth of 16 pixels for 1; borders reflect."""
    image = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    found = transform(image.clone(), drawn(move_x=x / 2, move_y=y / 2))
    expected = F.pad(image, (4,) * 4, mode="reflect")[..., 4 - y : 20 - y, 4 - x : 20 - x]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # float32 coordinates


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters):
    """By pi / 2 counter-clockwise as seen; not exact, as the filter is not symmetric."""
    image = smooth()
    found = transform(image.clone(), drawn(theta=quarters * math.pi / 2))
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(found[inner], image.rot90(quarters, (-2, -1))[inner], rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "parts",
    [
        {"scale": 2.5},
        {"stretch": -1.5},
        {"stretch": 2.0, "axis": 0.7},
        {"theta": 0.3, "move_x": 0.2},
    ],
    ids=str,
)
def test_pixels_come_from_where_the_matrix_says(parts):
    """Against plain bilinear sampling, on slow waves."""
    image = smooth()
    half = torch.diag(torch.tensor([16.0, 16.0, 1.0], dtype=torch.float64))
    inverse = torch.linalg.inv(half) @ inverse_map(drawn(**parts), 32) @ half
    grid = F.affine_grid(inverse[:, :2].float(), [1, 2, 32, 32], align_corners=False)
    expected = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(transform(image.clone(), drawn(**parts))[inner], expected[inner], rtol=0, atol=0.02)


def test_matrices_by_hand():
    """Scale 2^(0.2 * 5) = 2 halves coordinates; a stretch is 2 along its axis and 1/2 across; the product's order."""

    def source(parts, point):
        return (inverse_map(drawn(**parts), 16)[0] @ torch.tensor([*point, 1.0], dtype=torch.float64))[:2].tolist()

    for parts, point, expected in (
        ({"scale": 5}, (4, 6), [2, 3]),
        ({"theta": math.pi / 2}, (1, 0), [0, 1]),
        ({"stretch": 5}, (4, 6), [2, 12]),
        ({"stretch": 5, "axis": math.pi / 2}, (4, 6), [8, 3]),
        ({"move_x": 1, "move_y": -1}, (0, 0), [-2, 2]),
        ({"scale": 5, "theta": math.pi / 2, "move_x": 1}, (4, 0), [0, 1]),
    ):
        assert source(parts, point) == pytest.approx(expected, abs=1e-6), parts


def test_labels_are_edms():
    parts = {"scale": 0.5, "theta": 1.0, "stretch": -2.0, "axis": 0.3, "move_x": 3, "move_y": 4}
    expected = [1, 1, 0.5, math.cos(1) - 1, math.sin(1), -2 * math.cos(0.3), -2 * math.sin(0.3), 3, 4]
    assert drawn(x_flip=1, y_flip=1, **parts).label()[0].tolist() == pytest.approx(expected)
    assert not drawn().label().any()


def test_draws_have_their_probabilities_and_spreads():
    """Within five standard errors."""
    num, p = 40_000, 0.3
    some = draw(num, p, torch.Generator().manual_seed(0))
    for part, share in (
        ("x_flip", 0.5),
        ("y_flip", 0.5 * p),
        ("scale", p),
        ("theta", p),
        ("stretch", p),
        ("move_x", p),
    ):
        found = (getattr(some, part) != 0).float().mean().item()
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / num), part
    assert ((some.move_x != 0) == (some.move_y != 0)).all()
    assert abs((some.axis != 0).float().mean() - 0.5) < 0.0125
    for part, spread in (("scale", 1), ("stretch", 1), ("move_x", 1), ("theta", math.pi / math.sqrt(3))):
        values = getattr(some, part)
        assert values[values != 0].std().item() == pytest.approx(spread, rel=0.05)


def test_batches_carry_labels_and_depend_on_their_number_alone():
    data = Augmented(data=Digits(batch_size=16), probability=0.5)
    loader, again = data.train_dataloader(), data.train_dataloader()
    batch = loader.batch(3)
    assert batch["augment"].shape == (16, 9)
    assert batch["image"].shape == (16, 1, 16, 16)
    assert all(torch.equal(batch[key], again.batch(3)[key]) for key in batch)
    assert not torch.equal(batch["augment"], loader.batch(4)["augment"])
    plain = Digits(batch_size=16).train_dataloader().batch(3)["image"]
    untouched = ~batch["augment"].any(dim=1)
    assert torch.equal(batch["image"][untouched], plain[untouched])
    assert "augment" not in next(iter(data.val_dataloader()))
    assert data.card()["augmentation"] == 0.5
    assert data.fingerprint() == Digits().fingerprint()


@pytest.mark.parametrize("probability", [0.0, 1.5, -1.0])
def test_impossible_probabilities(probability):
    with pytest.raises(UserError, match="probability is"):
        Augmented(data=Digits(), probability=probability)


def test_data_that_cannot_be_augmented():
    with pytest.raises(UserError, match="and once"):
        Augmented(data=Augmented(data=Digits()))
