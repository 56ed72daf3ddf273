"""The data modules under Lightning and jsonargparse, as the trainer uses them."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

from denoisezoo.data import DATASETS, Digits, ImageData


class Recorder(LightningModule):
    """Fits one number, and keeps which images each step saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []
        self.held_out = 0

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["image"])
        return (batch["image"].mean() - self.weight).square()

    def validation_step(self, batch, batch_idx):
        self.held_out += len(batch["image"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(steps: int, root, checkpoint=None) -> tuple[Recorder, Trainer]:
    model, data = Recorder(), Digits(batch_size=512, horizontal_flip=True)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return model, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [3, 4])  # at the end of an epoch, and within one
def test_a_resumed_run_sees_the_batches_of_the_unbroken_one(tmp_path, stop):
    whole, _ = fit(8, tmp_path)
    first, trainer = fit(stop, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second, _ = fit(8, tmp_path, tmp_path / "last.ckpt")
    assert len(whole.seen) == 8
    assert len(second.seen) == 8 - stop
    for ours, theirs in zip(first.seen + second.seen, whole.seen, strict=True):
        assert torch.equal(ours, theirs)
    assert whole.held_out == 176 * 2


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_can_be_built_from_a_configuration(name, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    kind = DATASETS[name]
    in_files = name.startswith(("image_", "latents", "webdataset", "huggingface"))
    required = {"path": str(tmp_path), "resolution": 32} if in_files else {}
    given = {**required, "batch_size": 4} | ({"name": "mnist"} if name == "torchvision" else {})
    if name == "paired":
        given = {"data": {"class_path": "Digits", "init_args": given}, "task": "Edges"}
    elif name in ("augmented", "encoded"):
        cache = {"cache": str(tmp_path / "cache")} if name == "encoded" else {}
        given = {"data": {"class_path": "Digits", "init_args": given}} | cache
    config = parser.parse_object({"data": {"class_path": kind.__name__, "init_args": given}})
    data = parser.instantiate_classes(config).data
    assert type(data) is kind
    assert (data.batch_size, data.with_labels) == (4, False)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_argument_is_documented(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DATASETS[name], "data")
    undocumented = [a.dest for a in parser._actions if a.dest.startswith("data.") and not a.help]
    assert undocumented == []
