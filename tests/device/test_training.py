"""Training on the pretended device: the CPU's state, one wait when the log is due, and steps that the guard skips."""

import json
import math

import pytest
import torch

import denoisezoo as dz
from denoisezoo.cli import main
from denoisezoo.data import loader
from denoisezoo.data.loader import TrainLoader
from denoisezoo.diffusion import Process
from denoisezoo.diffusion.basis import Basis
from denoisezoo.nn.embeddings import Sinusoidal
from denoisezoo.pixels import to_float
from denoisezoo.train.ema import EMA
from denoisezoo.train.log import read_log
from denoisezoo.train.noise_bins import NoiseBins
from denoisezoo.train.training_module import TrainingModule
from tests.device.pretended import DeviceMixError, on, waits
from tests.device.small import small_denoiser, small_objective


def assert_same_state(ours, theirs):
    """Weights, averages and moments of two checkpoints."""
    for key in ("state_dict", "current_model_state"):
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-6, rtol=1e-5)
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (ours, theirs)]
    torch.testing.assert_close(*moments, atol=1e-6, rtol=1e-5)


def test_a_training_waits_when_the_log_is_due(trains, tmp_path):
    """Steps 2 to 5, of which the third is logged; then resumed, sampled and evaluated there."""
    cpu, _, _ = trains("cpu")
    gpu, waited, _ = trains("cuda")
    assert_same_state(gpu, cpu)
    assert [sum(found.values()) for found in waited] == [0, 1, 0, 0], waited
    rows = [read_log(tmp_path / device) for device in ("cpu", "cuda")]
    assert rows[0].keys() == rows[1].keys() == {2, 5}
    for step in rows[0]:
        known = {key for key in rows[0][step] if not key.startswith(("images_per", "flop", "share"))}
        assert known <= rows[1][step].keys()
        for key in known:
            assert rows[1][step][key] == pytest.approx(rows[0][step][key], rel=1e-4), key
    more, _, _ = trains("cuda", "--trainer.max_steps", "8")  # goes on
    assert more["global_step"] == 8
    words = ["--steps", "3", "--num", "8", "--device"]
    for device in ("cpu", "cuda"):
        with on(device):
            assert (
                main(["sample", str(tmp_path / "cuda"), "--out", str(tmp_path / f"of_{device}"), *words, device]) == 0
            )
            assert (
                main(["evaluate", str(tmp_path / "cuda"), *words, device, "--json", str(tmp_path / device / "x")]) == 0
            )
    pictures = [sorted((tmp_path / f"of_{device}").rglob("*.png")) for device in ("cpu", "cuda")]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]
    (cpu,), (gpu,) = (json.loads((tmp_path / device / "x").read_text()) for device in ("cpu", "cuda"))
    for key in ("fd_pixels", "precision", "recall"):
        assert gpu[key] == pytest.approx(cpu[key], rel=1e-3)
    drawn_there = [*words, "cuda", "--noise", "device", "--json", str(tmp_path / "drawn.json")]
    with on("cuda"):
        assert main(["evaluate", str(tmp_path / "cuda"), *drawn_there]) == 0
    (drawn,) = json.loads((tmp_path / "drawn.json").read_text())
    assert (cpu["noise"], gpu["noise"], drawn["noise"]) == ("cpu", "cpu", "device")
    assert drawn["fd_pixels"] != gpu["fd_pixels"]


def poison(monkeypatch, *batches):
    """Put a NaN into the first image of some batches."""
    batch = TrainLoader.batch

    def poisoned(self, n):
        found = batch(self, n)
        if n in batches:
            found["image"][0, 0, 0, 0] = math.nan
        return found

    monkeypatch.setattr(TrainLoader, "batch", poisoned)


def test_a_bad_step_is_skipped_on_the_device(trains, tmp_path, monkeypatch):
    """Weights, averages, moments, counts and noise levels as where the host decides; it waits once it knows."""
    poison(monkeypatch, 1, 3, 4)
    cpu, _, _ = trains("cpu")
    gpu, waited, _ = trains("cuda")
    assert_same_state(gpu, cpu)
    rows = [read_log(tmp_path / device)[5] for device in ("cpu", "cuda")]
    assert rows[1]["guard/skipped"] == rows[0]["guard/skipped"] == 3
    skipped = [{key: value for key, value in row.items() if key.startswith("guard/")} for row in rows]
    assert skipped[0] == skipped[1]
    assert sum(waited[0].values()) == 0  # step 1 is bad, which nobody knows yet


def test_many_bad_steps_end_training_there_too(trains, monkeypatch):
    from denoisezoo.errors import ComputationError

    poison(monkeypatch, *range(1, 20))
    with pytest.raises(ComputationError, match=r"3 steps in a row .*the last of them step 4.*the batch itself"):
        trains("cuda", "--guard.max_in_row", "2")


def test_both_networks_of_an_adversarial_step_train_there(tmp_path, monkeypatch):
    """The second step is bad: neither network takes it."""
    images, found = torch.rand(64, 1, 8, 8) * 2 - 1, {}
    poison(monkeypatch, 1)
    for device in ("cpu", "cuda"):
        denoiser = small_denoiser("downsampling")
        seen = []
        monkeypatch.setattr(
            TrainingModule, "on_train_batch_start", lambda *_, seen=seen: seen.append(waits.copy()), raising=False
        )
        with on(device):
            trainer = {"accelerator": device, "log_every_n_steps": 10, "enable_progress_bar": False}
            dz.fit(denoiser, small_objective("udpm", denoiser), images, steps=4, batch_size=8,
                   out=tmp_path / device, trainer=trainer, samples={"every_n_steps": 0})  # fmt: skip
        found[device] = torch.load(tmp_path / device / "checkpoints" / "last.ckpt", weights_only=True)
    assert any("adversary" in key for key in found["cuda"]["state_dict"])
    assert_same_state(found["cuda"], found["cpu"])
    judged = [checkpoint["denoisezoo"]["adversary_optimizer"]["state"] for checkpoint in found.values()]
    torch.testing.assert_close(judged[1], judged[0], atol=1e-6, rtol=1e-5)
    assert float(judged[0][0]["step"]) == 3
    assert not seen[2] - seen[1]  # of the bad step


def wrapped(owner, name, change):
    """A fault: `change` is called with the function and its arguments."""
    function = getattr(owner, name)
    return owner, name, lambda *args, **kwargs: change(function, *args, **kwargs)


def made_on_the_cpu(perturb, self, u_0, eps, t):
    return perturb(self, u_0, eps, t) + torch.zeros(u_0.shape)


def read_in_the_step(add, self, log_snr, loss):
    add(self, log_snr, loss)
    assert float(loss.detach().mean()) >= 0


def numpy_in_the_middle(encode, self, image):
    return torch.from_numpy(encode(self, image).cpu().numpy()).to(image.device)


def average_on_the_cpu(update, self, module, *args):
    return update(self, module.cpu(), *args)


def sinusoids_on_the_cpu(forward, self, c_noise):
    return forward(self.cpu(), c_noise.cpu())


def not_pinned(pixels, flip, label):
    return {"image": to_float(pixels)}


FAULTS = {
    "a tensor made on the CPU": lambda: wrapped(Process, "perturb", made_on_the_cpu),
    "a generator of the CPU": lambda: wrapped(
        TrainingModule, "generator", lambda made, self, *key: torch.Generator().manual_seed(0)
    ),
    "float() in the step": lambda: wrapped(NoiseBins, "add", read_in_the_step),
    "numpy in the middle": lambda: wrapped(Basis, "encode", numpy_in_the_middle),
    "an average on the CPU": lambda: wrapped(EMA, "_update", average_on_the_cpu),
    "sinusoids on the CPU": lambda: wrapped(Sinusoidal, "forward", sinusoids_on_the_cpu),
    "a batch that is not pinned": lambda: (loader, "collate", not_pinned),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, trains, monkeypatch):
    """By an error as on CUDA, or by a step that waits."""
    owner, name, wrong = FAULTS[fault]()
    monkeypatch.setattr(owner, name, wrong)
    if name == "collate":  # else images are where the network is
        monkeypatch.setattr(loader, "resident", lambda *_: None)
    try:
        _, waited, _ = trains("cuda", "--trainer.max_steps", "3")
    except (DeviceMixError, RuntimeError) as error:
        found = str(error)
        if "device" not in found and "CPU" not in found:
            raise
        return
    assert all(sum(found.values()) for found in waited), waited  # of the second step, which is not logged
