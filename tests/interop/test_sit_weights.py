"""Weights of SiT: velocities are minus those of its own code, whose time runs the other way."""

import torch

from denoisezoo.diffusion import Given
from denoisezoo.runs.run import load_run
from tests.interop.written import eight, image, write_transformer

# willisma/SiT, models.py: SiT(8, 4, 3, 32, 2, 2, num_classes=3) with the weights of `filled`, for the images of
# `image`, its times 0.997 and 0.13, and labels 0 and none.
THEIRS = [-0.39708, 0.552416, -0.325235, 0.739104, -0.321711, 0.31961, -1.497129, -0.361914]


def test_velocities_are_minus_those_of_sit(tmp_path):
    run = load_run(f"sit,num_heads=2:{write_transformer(tmp_path / 'SiT.pt', training=True)}")
    t, given = torch.tensor([0.003, 0.87]), Given(label=torch.tensor([0, -1]))
    with torch.no_grad():
        y = run.denoiser.backbone(image(2, 3, 8, 8), 999 * t, given)
        torch.testing.assert_close(-eight(y), torch.tensor(THEIRS), rtol=0, atol=1e-5)
        v = run.denoiser.velocity(image(2, 3, 8, 8).double(), t.double(), given)
    torch.testing.assert_close(-eight(v).float(), torch.tensor(THEIRS), rtol=0, atol=1e-5)
    assert run.denoiser.backbone.spec.out_channels == 3
    assert run.sampling() == {"sampler": "heun", "steps": 125}
