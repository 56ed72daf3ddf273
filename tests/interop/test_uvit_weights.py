"""Weights of U-ViT: outputs equal those of its own code; networks of latents count the steps of a chain from 1."""

import math

import pytest
import torch

from denoisezoo.diffusion import Given
from denoisezoo.errors import UserError
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# baofff/U-ViT, libs/uvit.py: UViT(8, 4, 3, 32, 2, 2, num_classes=4) with the weights of `filled`, for the images of
# `image`, times 3 and 870, and labels 0 and 3.
THEIRS = [0.64763, -0.746062, -0.852143, -0.369239, 1.778642, 0.100523, -0.405428, 0.658999]
TIMES = torch.tensor([3.0, 870.0])


def test_outputs_are_those_of_u_vit(tmp_path):
    path = write_transformer(tmp_path / "nnet_ema.pth", "uvit")
    run = load_run(f"uvit,num_heads=2:{path}")
    with torch.no_grad():
        y = run.denoiser.backbone(image(2, 3, 8, 8), TIMES, Given(label=torch.tensor([0, 3])))
        torch.testing.assert_close(eight(y), torch.tensor(THEIRS), rtol=0, atol=1e-5)
        y = load_run(f"uvit,num_heads=2,null_label=true:{path}").denoiser.backbone(
            image(2, 3, 8, 8), TIMES, Given(label=torch.tensor([0, -1]))
        )
    torch.testing.assert_close(eight(y), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert type(run.denoiser.process).__name__ == "VP"
    assert run.sampling() == {"sampler": "dpmpp_2m", "steps": 50}


def test_a_network_of_latents_is_told_the_step_of_its_chain(tmp_path):
    run = load_run(f"uvit,num_heads=2,latents=true:{write_transformer(tmp_path / 'nnet_ema.pth', 'uvit')}")
    process, t = run.denoiser.process, TIMES.double()
    # Stable Diffusion's chain: betas whose roots go evenly from sqrt(0.00085) to sqrt(0.012).
    betas = [(math.sqrt(0.00085) + k / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2 for k in range(1000)]
    alpha_bar = math.prod(1 - beta for beta in betas[:870])
    assert process.alpha(t)[1].item() ** 2 == pytest.approx(alpha_bar, rel=1e-12)
    with torch.no_grad():
        eps = run.denoiser(image(2, 3, 8, 8).double(), t, Given(label=torch.tensor([0, 3]))).eps
    torch.testing.assert_close(eight(eps).float(), torch.tensor(THEIRS), rtol=0, atol=1e-5)


def test_what_does_not_fit_is_told(tmp_path):
    def add(weights):
        weights["time_embed.0.weight"] = torch.zeros(128, 32)

    path = write_transformer(tmp_path / "nnet_ema.pth", "uvit", change=add)
    with pytest.raises(UserError, match=r"time_embed.0.weight 128x32 is unknown; give a state dictionary of baofff"):
        load_run(f"uvit,num_heads=2:{path}")
    with pytest.raises(UserError, match=r"a width of 32 is new; give them, e.g. uvit,num_heads=1:PATH"):
        load_run(f"uvit:{path}")
    path = write_transformer(path, "uvit", change=lambda w: w.pop("mid_block.norm1.weight"))
    with pytest.raises(UserError, match=r"mid_block.norm1.weight is missing"):
        load_run(f"uvit,num_heads=2:{path}")
