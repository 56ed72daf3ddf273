"""Weights of LightningDiT: velocities are minus those of its own code, whose time runs the other way."""

import pytest
import torch

from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# hustvl/LightningDiT, models/lightningdit.py: LightningDiT(8, 4, 3, 32, 2, 2, num_classes=3) with queries and keys
# normalised, SwiGLU, rotary positions and RMSNorm, and the weights of `filled`, for the images of `image`, its times
# 0.997 and 0.13, and labels 0 and none.
THEIRS = [-0.009363, 1.334956, 0.106493, -0.065824, -0.441353, 1.218986, -0.506361, -0.825718]


def write(tmp_path, **how):
    return f"lightningdit:{write_transformer(tmp_path / 'lightningdit.pt', 'lightningdit', **how)}"


def test_velocities_are_minus_those_of_lightningdit(tmp_path):
    run = load_run(write(tmp_path, training=True))
    t, given = torch.tensor([0.003, 0.87]), Given(label=torch.tensor([0, -1]))
    with torch.no_grad():
        y = run.denoiser.backbone(image(2, 3, 8, 8), 999 * t, given)
    torch.testing.assert_close(-eight(y), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert run.denoiser.backbone.config.heads == 2
    assert run.sampling() == {"sampler": "euler", "steps": 250}


WRONG = {
    "another table": (
        lambda w: w["feat_rope.freqs_cos"].neg_(),
        "feat_rope.freqs_cos is not the table of a 2x2 grid",
    ),
    "no table": (lambda w: w.pop("feat_rope.freqs_sin"), "feat_rope.freqs_sin is missing"),
    "no gate": (lambda w: w.pop("blocks.0.mlp.w12.weight"), "blocks.0.mlp.w12.weight is missing"),
    "without RMSNorm": (lambda w: w.pop("blocks.1.norm1.weight"), "blocks.1.norm1.weight is missing"),
    "more": (lambda w: w.update({"repa.0.weight": torch.zeros(2, 3)}), r"repa.0.weight 2x3 is unknown"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told(case, tmp_path):
    change, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_run(write(tmp_path, change=change))
