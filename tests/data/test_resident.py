"""Batches of a GPU are those of a CPU: images that stay on the device, and batches made ahead of time."""

import threading

import pytest
import torch

from denoisezoo.data import loader as loader_module
from denoisezoo.data import resident
from denoisezoo.data.loader import TrainLoader
from denoisezoo.data.store import LazyStore, TensorStore

PIXELS = torch.randint(0, 256, (23, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23)


def loader(store=None, **options):
    return TrainLoader(store or TensorStore(PIXELS), LABELS, **{"batch_size": 8, "flip": True, "seed": 3} | options)


def drawn(made, passes=2):
    return [batch for _ in range(passes) for batch in made]


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("options", [{}, {"flip": False}, {"rank": 1, "world_size": 2, "accumulate": 2}])
def test_resident_images_make_the_same_batches(options, monkeypatch):
    expected = drawn(loader(**options), 4)
    monkeypatch.setattr(resident, "room", lambda device: float("inf"))
    monkeypatch.setattr(loader_module, "_cuda", lambda: True)
    made = loader(**options)
    found = drawn(made, 4)
    assert made._resident is not None
    assert_equal(found, expected)
    resumed = loader(**options)
    resumed.load_state_dict({"position": 3})
    assert_equal(drawn(resumed, 1), expected[3 : 3 + len(resumed)])


def test_images_stay_where_a_share_of_the_free_memory_is_enough(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (PIXELS.nbytes / resident.SHARE - 1, 10**9))
    images, device = TensorStore(PIXELS), torch.device("cuda")
    assert resident.resident(images, LABELS, device) is None
    assert resident.resident(images, LABELS, torch.device("cpu")) is None
    assert resident.resident(LazyStore(["a"], lambda name: PIXELS[0]), None, device) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (PIXELS.nbytes / resident.SHARE, 10**9))
    assert resident.room(device) == PIXELS.nbytes


@pytest.mark.parametrize("lazy", [False, True])
def test_batches_made_ahead_are_the_same(lazy, monkeypatch):
    monkeypatch.setattr(resident, "room", lambda device: 0.0)
    threads = set()

    def decode(name):
        threads.add(threading.current_thread().name)
        return PIXELS[int(name)]

    store = LazyStore([str(i) for i in range(23)], decode) if lazy else None
    expected = drawn(loader(), 3)
    made = loader(store, device=torch.device("cuda"))
    assert_equal(drawn(made, 2), expected[:4])
    made.load_state_dict({"position": 1})
    assert_equal(drawn(made, 1), expected[1:3])
    assert made._thread is not None
    assert bool(threads) == lazy


def test_an_error_in_a_batch_made_ahead_is_raised_when_the_batch_is_due(monkeypatch):
    monkeypatch.setattr(resident, "room", lambda device: 0.0)
    made = loader(device=torch.device("cuda"))
    second, real = made._order(0)[0][8:16], made.images.take

    def take(index):
        if torch.equal(index, second):
            raise ValueError("broken")
        return real(index)

    monkeypatch.setattr(made.images, "take", take)
    batches = iter(made)
    assert len(next(batches)["image"]) == 8
    with pytest.raises(ValueError, match="broken"):
        next(batches)


@pytest.mark.gpu
def test_batches_of_a_gpu_are_those_of_a_cpu():
    made = loader(device=torch.device("cuda"))
    found = drawn(made)
    assert found[0]["image"].device.type == "cuda"
    assert_equal([{key: value.cpu() for key, value in batch.items()} for batch in found], drawn(loader()))
