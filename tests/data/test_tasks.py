"""Tasks: what is left of an image, and what a sample can be held to; and any data set as such a task."""

import numpy as np
import pytest
import torch
from PIL import Image

from denoisezoo.data import TASKS, Digits, Paired, Photos
from denoisezoo.data.edges import canny
from denoisezoo.data.tasks import Denoising, Edges, Inpainting, SuperResolution, Translation, shrink
from denoisezoo.errors import UserError
from denoisezoo.evaluation.reconstruction import consistency

EVERY = [cls() for cls in TASKS.values()] + [Inpainting("pixels", 0.5), Inpainting(show_mask=True)]
EVERY += [Translation("plain", "negative"), Translation("negative", "posterised")]
title = lambda task: task.title  # noqa: E731


def images(n=4, channels=3, side=16):
    """Squares of four pixels a side with some noise on them."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(n, channels, side // 4, side // 4, generator=generator) * 2 - 1
    noise = torch.rand(n, channels, side, side, generator=generator) * 2 - 1
    return 0.9 * squares.repeat_interleave(4, -1).repeat_interleave(4, -2) + 0.1 * noise


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("task", EVERY, ids=title)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_task_gives_conditions_that_the_truth_fits(task, channels):
    image = images(channels=channels)
    task.check(channels, 16)
    pair = task(image, generator())
    assert pair.x.shape == (4, task.target_channels(channels), 16, 16)
    assert pair.y.shape == (4, task.cond_channels(channels), 16, 16)
    assert consistency(pair, pair.x).eq(100).all()
    assert (consistency(pair, images(8)[4:, :channels]) < 60).all()
    assert torch.equal(pair.y, task(image, generator()).y)
    assert torch.equal(pair.x, task.target(image))
    assert task.random == (not torch.equal(pair.y, task(image, torch.Generator().manual_seed(1)).y))
    assert pair.take(torch.tensor([2, 0])).y.equal(pair.y[[2, 0]])


def test_shrinking_is_pillows():
    """A second implementation of bicubic interpolation with the filter widened."""
    image = images(1, 1)
    for factor in (2, 4, 8):
        pillow = Image.fromarray(image[0, 0].numpy()).resize((16 // factor,) * 2, Image.Resampling.BICUBIC)
        np.testing.assert_allclose(shrink(image, factor)[0, 0], np.array(pillow).clip(-1, 1), atol=2e-6)


def test_super_resolution_shows_whole_pixels():
    y = SuperResolution(4)(images()).y
    blocks = y.unflatten(-1, (4, 4)).unflatten(-3, (4, 4))
    assert torch.equal(blocks.amax((-3, -1)), blocks.amin((-3, -1)))


def test_a_square_is_missing():
    pair = Inpainting("square", 0.25)(images(64), generator())
    assert ((1 - pair.mask).sum((1, 2, 3)) == 64).all()  # a quarter of 256
    hole = (1 - pair.mask[0, 0]).nonzero()
    assert (hole.amax(0) - hole.amin(0)).tolist() == [7, 7]
    assert torch.equal(pair.y, torch.where(pair.mask > 0, pair.x, -torch.ones(())))
    assert len({tuple(m.flatten().tolist()) for m in pair.mask}) > 30


def test_the_consistency_of_inpainting_is_that_of_known_pixels():
    pair = Inpainting()(images(), generator())
    other = torch.where(pair.mask > 0, pair.x, images(8)[4:])
    assert consistency(pair, other).eq(100).all()
    off = torch.where(pair.mask > 0, (pair.x.abs() - 0.2) * pair.x.sign(), pair.x)  # by 0.2 of 2: 20 dB
    torch.testing.assert_close(consistency(pair, off), torch.full((4,), 20.0, dtype=torch.float64))


def test_pixels_are_missing_one_by_one():
    mask = Inpainting("pixels", 0.7)(images(64), generator()).mask
    assert mask.mean().item() == pytest.approx(0.3, abs=0.02)


def test_masks_come_from_files(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    task = Inpainting("file", mask=str(tmp_path / "mask.png"))
    task.check(1, 16)
    mask = task(images()).mask
    assert mask[..., 8:].eq(1).all()
    assert mask[..., :8].eq(0).all()
    with pytest.raises(UserError, match="16x16"):
        task.check(1, 32)
    Image.fromarray(pixels // 2).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"0\.498"):
        Inpainting("file", mask=str(tmp_path / "grey.png"))
    with pytest.raises(UserError, match="cannot be read"):
        Inpainting("file", mask=str(tmp_path / "none.png"))


def test_other_pixels_in_a_mask_of_the_same_name_are_another_task(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, 8:] = 255
    found = []
    for name, mask in (("a", pixels), ("b", pixels), ("c", pixels.T)):
        (tmp_path / name).mkdir()
        Image.fromarray(mask).save(tmp_path / name / "mask.png")
        task = Inpainting("file", mask=str(tmp_path / name / "mask.png"))
        found.append((task.title, Paired(data=Digits(), task=task).content_hash()))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] != found[2][1]


# Edges


def test_a_step_has_one_line_of_edges():
    for turn in (lambda x: x, lambda x: x.mT):
        image = -torch.ones(1, 1, 16, 16)
        image[..., 8:] = 1
        found = turn(canny(turn(image), 0.1, 0.2))[0, 0]
        assert found.sum() == 16
        assert found.any(0).nonzero().flatten().tolist() in ([7], [8])
    assert not canny(torch.zeros(1, 3, 16, 16), 0.1, 0.2).any()


def test_weak_edges_count_only_beside_strong_ones():
    """A step that fades from strong to weak goes on; the same weak step alone is no edge."""
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = torch.linspace(1.0, 0.3, 32)[:, None]
    alone = torch.zeros(1, 1, 32, 32)
    alone[..., 16:] = 0.35
    assert canny(image, 0.05, 0.15).any(-1).all()
    assert not canny(alone, 0.05, 0.15).any()
    assert canny(alone, 0.05, 0.05).any()


def test_noise_has_its_deviation():
    pair = Denoising(0.3)(images(64), generator())
    assert (pair.y - pair.x).std().item() == pytest.approx(0.3, rel=0.01)


def test_translations_render_both_sides():
    image = images()
    pair = Translation("negative", "posterised")(image)
    assert torch.equal(pair.y, -image)
    assert set(pair.x.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert Translation("relief")(torch.full((1, 1, 4, 4), 0.7)).y.eq(0).all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Paired(data=Digits(), task=SuperResolution(3)), "factor 3 does not divide 16"),
        (lambda: SuperResolution(1), "factor is 1"),
        (lambda: Inpainting(missing=1.0), "missing"),
        (lambda: Inpainting("file"), "kind file"),
        (lambda: Inpainting("square", mask="x.png"), "x.png"),
        (lambda: Edges(0.5, 0.2), "out of order"),
        (lambda: Denoising(0), "sigma"),
        (lambda: Translation("reliev"), "relief"),
        (lambda: Translation("plain", "plain"), "two renderings"),
    ],
)
def test_nonsense_is_refused(make, word):
    with pytest.raises(UserError, match=word) as caught:
        make()
    assert "\n" not in str(caught.value)


# Data


def paired(task=None, **options):
    return Paired(data=Digits(batch_size=32, labels=True), task=task or Inpainting(), **options)


def test_batches_are_those_of_the_data_with_conditions():
    data, plain = paired(SuperResolution(4), seed=3), Digits(batch_size=32, labels=True, seed=3)
    ours, theirs = data.train_dataloader().batch(5), plain.train_dataloader().batch(5)
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["label"], theirs["label"])
    assert torch.equal(ours["cond"], SuperResolution(4)(theirs["image"]).y)
    assert (data.cond_channels, data.num_classes, data.title) == (1, 10, "digits, super_resolution 4x")


def test_a_random_condition_depends_on_the_number_of_its_batch():
    loader = paired().train_dataloader()
    batches = [loader.batch(n)["cond"] for n in (0, 1, len(loader))]
    assert torch.equal(batches[0], paired().train_dataloader().batch(0)["cond"])
    masks = [(b == -1).float() for b in batches]
    assert not torch.equal(masks[0], masks[1])
    other = paired(seed=1).train_dataloader().batch(0)
    assert not torch.equal(other["cond"], batches[0])


def test_evaluated_pairs_do_not_depend_on_how_many_there_are():
    data = paired()
    few, all_of_them = data.pairs("test", 5), data.pairs("test")
    assert len(all_of_them) == 176
    assert torch.equal(few.y, all_of_them.y[:5])
    assert torch.equal(data.pairs("all", 1625).y[1621:], all_of_them.y[:4])
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["cond"], all_of_them.y[:32])
    assert torch.equal(batch["image"], all_of_them.x[:32])


def test_what_is_to_be_found_may_differ_from_the_image():
    data = Paired(data=Photos(num_train=64, num_test=8, batch_size=8), task=Translation("plain", "negative"))
    assert (data.images("all")[64:].int() + data.data.images("test").int() - 255).abs().max() <= 1
    assert torch.equal(data.pairs("test").x, -data.pairs("test").y)


def test_cards_tell_tasks_apart():
    a, b = paired(SuperResolution(2)), paired(SuperResolution(4))
    assert a.content_hash() != b.content_hash()
    assert a.card()["task"] == "super_resolution 2x"
    assert a.card()["dataset"] == "digits, super_resolution 2x"


def test_nothing_held_out_leaves_training_pairs():
    data = Paired(data=Photos(num_train=16, num_test=0, batch_size=8), task=SuperResolution(4))
    assert torch.equal(data.held_out_pairs(3).x, data.pairs("train", 3).x)
    assert len(data.pairs("all")) == 16
