"""The classifier that looks at what arrives."""

import pytest
import torch

from denoisezoo.data import Channel, Digits, Paired, Photos
from denoisezoo.evaluation import recognition
from denoisezoo.evaluation.recognition import has_classes, held_out_labels, recogniser_of
from denoisezoo.pixels import to_float


@pytest.fixture(scope="module")
def digits():
    """Small digits."""
    data = Digits(resolution=8)
    data.setup()
    return data


def test_it_knows_clean_digits_and_not_noise(digits, monkeypatch):
    monkeypatch.setattr(recognition, "STEPS", 100)
    monkeypatch.setattr(recognition, "_trained", {})
    recogniser = recogniser_of(digits)
    assert recogniser is recogniser_of(Digits(resolution=8, seed=3))  # the same images
    images, labels = to_float(digits.images("test")), digits.labels("test")
    found = recogniser.figures(images, labels)
    assert found["class_accuracy"] == pytest.approx(recogniser.accuracy) == found["class_accuracy_clean"]
    assert recogniser.accuracy > 0.8
    noise = 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1
    assert recogniser.figures(noise, labels)["class_accuracy"] < 0.3
    assert recogniser.figures(images, labels.roll(1))["class_accuracy"] < 0.3


def test_labels_are_those_of_the_held_out_pairs(digits):
    paired = Paired(data=digits, task=Channel(power=0.714))
    paired.setup()
    pair, labels = paired.held_out_pairs(), held_out_labels(paired)
    assert len(pair) == len(labels) == 176
    assert torch.equal(pair.x, to_float(digits.images("test")))


def test_data_without_two_classes_have_no_recogniser():
    data = Photos(resolution=16, batch_size=8, num_train=8, num_test=2)
    data.setup()
    assert has_classes(data)
    data._splits["train"].labels.zero_()
    assert recogniser_of(data) is None
