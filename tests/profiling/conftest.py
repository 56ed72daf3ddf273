from dataclasses import dataclass

import pytest
import torch
from torch import nn

from denoisezoo.archs import Backbone, BackboneConfig
from denoisezoo.nn.given import NOTHING
from denoisezoo.profiling.roofline import Peaks


@dataclass(frozen=True, kw_only=True)
class ToyConfig(BackboneConfig):
    """Sizes small enough to count by hand."""

    resolution: int = 8
    channels: int = 4

    @property
    def efforts(self):
        return (1.0, 2.0, 5.0)


class Field(nn.Module):
    """A vector field dx/dt = f(x)."""

    is_vector_field = True

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x).tanh()


class ToyODE(Backbone):
    """Stem, a block of `effort` Euler steps, head."""

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Conv2d(config.in_channels, config.channels, 1)
        self.blocks = nn.ModuleList([Field(config.channels), nn.Dropout(0.5)])
        self.head = nn.Conv2d(config.channels, config.out_channels, 1)

    def forward(self, x, c_noise, given=NOTHING, effort=None):
        steps = int(self.check_effort(effort))
        x = self.stem(x)
        for _ in range(steps):
            x = x + self.blocks[0](x) / steps
        return self.head(self.blocks[1](x)) * c_noise.reshape(-1, 1, 1, 1).to(x.dtype)


PIXELS = 8 * 8
STEM = HEAD = PIXELS * 3 * 4
FIELD = PIXELS * 4 * 4 * 9
TOY_PARAMS = (3 * 4 + 4) + (4 * 4 * 9 + 4) + (4 * 3 + 3)


def toy_macs(effort):
    """Multiply-adds of one call per image, derived by hand."""
    return STEM + int(effort) * FIELD + HEAD


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return ToyODE(ToyConfig())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Tests neither read nor write the user's cache of peaks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("denoisezoo.profiling.roofline.measure_peaks", lambda *_: Peaks(1e11, 1e10))
