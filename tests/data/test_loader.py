from __future__ import annotations

from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from denoisezoo.data import DATASETS, Digits, TrainLoader
from denoisezoo.data.loader import EvalLoader
from denoisezoo.data.store import LazyStore, TensorStore
from denoisezoo.errors import UserError
from denoisezoo.pixels import to_uint8


def numbered(n: int = 50) -> TensorStore:
    """Images 2x2 whose top left pixel is their number and whose top right pixel is 255 less it."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).repeat(1, 1, 2, 2)
    images[..., 1] = 255 - images[..., 1]
    return TensorStore(images)


def loader(n: int = 50, **options) -> TrainLoader:
    defaults = {"batch_size": 8, "flip": False, "seed": 0}
    return TrainLoader(numbered(n), torch.arange(n), **(defaults | options))


def numbers(loader: TrainLoader) -> list[int]:
    return torch.cat([batch["label"] for batch in loader]).tolist()


def test_a_batch_is_float_in_range_and_matches_its_labels():
    batch = loader().batch(0)
    assert batch["image"].shape == (8, 1, 2, 2)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert to_uint8(batch["image"])[:, 0, 0, 0].tolist() == batch["label"].tolist()
    everything = EvalLoader(TensorStore(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)), None, batch_size=1)
    (image,) = (batch["image"] for batch in everything)
    assert (image.min(), image.max()) == (-1, 1)


def test_an_epoch_visits_each_image_at_most_once_and_drops_the_rest():
    epoch = numbers(loader())
    assert len(epoch) == len(set(epoch)) == 48
    assert len(loader()) == 6


def test_order_differs_between_epochs_and_seeds_and_repeats_for_a_seed():
    first, again, other = loader(), loader(), loader(seed=1)
    epochs = [numbers(first), numbers(first), numbers(other)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [numbers(again), numbers(again)] == epochs[:2]


def test_neighbouring_seeds_share_no_epoch():
    orders = [tuple(numbers(one)) for seed in range(3) for one in [loader(seed=seed)] for _ in range(3)]
    assert len(set(orders)) == 9


def test_a_resumed_loader_goes_on_exactly():
    whole = loader(flip=True)
    expected = [whole.batch(n)["image"] for n in range(14)]
    begun = loader(flip=True)
    iterator = iter(begun)
    for _ in range(4):
        next(iterator)
    resumed = loader(flip=True)
    resumed.load_state_dict(begun.state_dict())
    for image, batch in zip(expected[4:10], resumed, strict=True):
        assert torch.equal(image, batch["image"])
    assert resumed.state_dict() == {"position": 10}


def test_flips_mirror_about_half_of_the_images_and_only_when_asked():
    unflipped = torch.cat([loader(200).batch(n)["image"] for n in range(25)])
    flipped = torch.cat([loader(200, flip=True).batch(n)["image"] for n in range(25)])
    same = (flipped == unflipped).flatten(1).all(1)
    mirrored = (flipped == unflipped.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130  # 100 +- 4 standard deviations
    assert not torch.equal(flipped, torch.cat([loader(200, flip=True).batch(n + 25)["image"] for n in range(25)]))


def test_ranks_divide_a_batch_among_them():
    whole = loader().batch(9)["label"].tolist()
    parts = [loader(rank=rank, world_size=2).batch(9)["label"].tolist() for rank in range(2)]
    assert [len(part) for part in parts] == [4, 4]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_evaluation_keeps_order_and_the_last_smaller_batch():
    batches = list(EvalLoader(numbered(10), torch.arange(10), batch_size=4))
    assert [batch["label"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(EvalLoader(numbered(10), None, batch_size=4)) == 3
    assert "label" not in next(iter(EvalLoader(numbered(10), None, batch_size=4)))


def test_evaluation_gives_each_rank_as_many_batches():
    ranks = [EvalLoader(numbered(11), torch.arange(11), batch_size=4, rank=r, world_size=2) for r in range(2)]
    assert [len(rank) for rank in ranks] == [3, 3]
    seen = [torch.cat([batch["label"] for batch in rank]).tolist() for rank in ranks]
    assert seen == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_a_lazy_store_takes_what_a_tensor_store_takes():
    images = numbered(20).images
    lazy = LazyStore([str(i) for i in range(20)], lambda name: images[int(name)])
    index = torch.tensor([3, 19, 3, 0])
    assert torch.equal(lazy.take(index), TensorStore(images).take(index))
    assert torch.equal(lazy.all(), images)


def counted(n: int = 50) -> tuple[LazyStore, list[int]]:
    """A store that is decoded as it is taken, and which images it decoded."""
    images, decoded = numbered(n).images, list[int]()

    def decode(name: str) -> torch.Tensor:
        decoded.append(int(name))
        return images[int(name)]

    return LazyStore([str(i) for i in range(n)], decode, workers=2), decoded


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_next_batch_is_decoded_before_it_is_asked_for(accumulate):
    lazy, decoded = counted()
    options = {"batch_size": 8, "flip": True, "seed": 0, "accumulate": accumulate}
    whole, ahead = TrainLoader(numbered(), torch.arange(50), **options), TrainLoader(lazy, None, **options)
    for first in (0, len(ahead)):  # the second pass too
        for n, batch in enumerate(ahead, first):
            assert torch.equal(batch["image"], whole.batch(n)["image"])
            wait(lazy._expected[1])
            expected = torch.cat([whole.batch(k)["label"] for k in range(n + 2)])
            assert sorted(decoded) == sorted(expected.tolist())  # of each batch once


def test_what_was_expected_is_given_up_when_others_are_taken():
    lazy, _ = counted()
    lazy.expect(torch.tensor([1, 2]))
    assert lazy.take(torch.tensor([3, 4]))[:, 0, 0, 0].tolist() == [3, 4]
    assert lazy.take(torch.tensor([1, 2]))[:, 0, 0, 0].tolist() == [1, 2]


def test_an_image_that_cannot_be_decoded_is_told_when_it_is_taken():
    def decode(name: str) -> torch.Tensor:
        raise UserError(f"{name} is broken", "mend it")

    lazy = LazyStore(["a", "b"], decode)
    lazy.expect(torch.tensor([1]))
    with pytest.raises(UserError, match="b is broken"):
        lazy.take(torch.tensor([1]))


def test_digits_batches_carry_labels_only_when_asked():
    assert set(Digits().train_dataloader().batch(0)) == {"image"}
    labelled = Digits(labels=True)
    assert set(labelled.train_dataloader().batch(0)) == {"image", "label"}
    assert set(next(iter(labelled.val_dataloader()))) == {"image", "label"}


def test_digits_are_not_mirrored_unless_asked():
    plain = Digits().train_dataloader().batch(0)["image"]
    assert torch.equal(plain, Digits(horizontal_flip=False).train_dataloader().batch(0)["image"])
    assert not torch.equal(plain, Digits(horizontal_flip=True).train_dataloader().batch(0)["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give a whole number of at least 1"),
        ({"batch_size": -4}, "batch_size is -4"),
        ({"resolution": -16}, "resolution is -16"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_arguments(options, message):
    with pytest.raises(UserError, match=message):
        Digits(**options)


def test_a_batch_larger_than_the_data():
    with pytest.raises(UserError, match=r"batch_size 2000 is larger than .* digits .1621 images.; use .* at most 1621"):
        Digits(batch_size=2000).setup()


def test_the_registry_names_what_the_classes_are_called():
    assert DATASETS.names() == [
        "augmented",
        "cifar10",
        "digits",
        "encoded",
        "huggingface",
        "image_folder",
        "image_npz",
        "image_zip",
        "latents",
        "paired",
        "photos",
        "torchvision",
        "webdataset",
    ]
    assert all(DATASETS[name].dataset == name for name in DATASETS)
    with pytest.raises(UserError, match=r"did you mean digits"):
        DATASETS["digit"]


def test_the_page_of_data_has_every_data_set():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, cls in DATASETS.items():
        assert any(f"`{name}`" in row and f"`{cls.__name__}`" in row for row in rows), name
