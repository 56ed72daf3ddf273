"""The averaged denoiser that an objective asks for: EMA of the step before, frozen, the same after a resumption."""

import pytest
import torch

from denoisezoo.data import Digits
from denoisezoo.diffusion import Loss, Objective, RectifiedFlow, create_denoiser
from denoisezoo.errors import UncountableError
from denoisezoo.profiling.counting import count
from denoisezoo.train.checkpoint import read_checkpoint
from denoisezoo.train.efforts import training_macs
from denoisezoo.train.objects import make_optimizer, train_objects
from denoisezoo.train.training_module import TrainingModule

SEEN: list[tuple[float, bool, bool]] = []


class Towards(Objective):
    """The average's prediction, at another time, is what the denoiser shall predict."""

    needs_average = True

    def __call__(self, step):
        """See `Objective`."""
        image = step.batch["image"]
        t = torch.full((len(image),), 0.5, dtype=torch.float64, device=image.device)
        u_t = image + torch.empty_like(image).normal_(generator=step.generator)
        with torch.no_grad():
            target = step.average(u_t, t / 2, step.given).u_0
        error = step.denoiser(u_t, t, step.given, step.effort).u_0 - target
        if not image.is_meta:
            weights = list(step.average.parameters())
            SEEN.append(
                (float(weights[0].double().sum()), step.average.training, any(w.requires_grad for w in weights))
            )
        return Loss(error.square().mean(), error.detach().square().mean((1, 2, 3)), t, error)


def make():
    """A small denoiser."""
    torch.manual_seed(0)
    return create_denoiser("ddpm_digits", RectifiedFlow(), multipliers=(1, 2), attention=())


def fit(folder, steps):
    """Train so far."""
    options = {
        "trainer": {"accelerator": "cpu", "limit_val_batches": 0},
        "checkpoint": {"every_n_steps": 1, "keep_all": True},
    }
    data = Digits(batch_size=4)
    train_objects(make(), Towards(), data, steps, folder, 0, make_optimizer(None, 1e-2), options)


def weights(folder, step):
    """Sum of the first averaged parameter in a checkpoint."""
    state = read_checkpoint(folder / "checkpoints" / f"step_{step:08d}.ckpt")["state_dict"]
    name = next(iter(dict(make().named_parameters())))
    return float(state[f"denoiser.{name}"].double().sum())


def test_each_step_sees_the_average_of_the_steps_before(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingModule, "training_macs", lambda self: 1)
    SEEN.clear()
    fit(tmp_path / "whole", 3)
    whole = SEEN[:3]
    assert [entry[1:] for entry in whole] == [(False, False)] * 3
    first = float(next(make().parameters()).detach().double().sum())
    assert [entry[0] for entry in whole] == [first, weights(tmp_path / "whole", 1), weights(tmp_path / "whole", 2)]
    SEEN.clear()
    fit(tmp_path / "broken", 1)
    fit(tmp_path / "broken", 3)
    assert weights(tmp_path / "broken", 3) == weights(tmp_path / "whole", 3)
    assert whole[2] in SEEN


def test_its_call_is_counted():
    denoiser = make()
    x = torch.zeros(1, 1, 16, 16, device="meta")
    forward = count(lambda: denoiser.to("meta").backbone(x, x.new_zeros(1))).macs
    denoiser = make()
    assert training_macs(denoiser, None, Towards()) == training_macs(denoiser) + forward


def test_what_depends_on_the_draw_is_not_counted():
    class Drawing(Towards):
        """Draws how much it does."""

        def __call__(self, step):
            """See `Objective`."""
            if float(torch.rand((), device=step.batch["image"].device)) < 0.5:
                raise AssertionError("there is no number on the meta device")
            return super().__call__(step)

    with pytest.raises(UncountableError, match="depends on what it draws"):
        training_macs(make(), None, Drawing())
