import resource

import pytest
import torch

from denoisezoo.diffusion import create_denoiser, create_sampler
from denoisezoo.profiling.profile import Walk, profile_backbone, time_modules
from denoisezoo.profiling.setting import Setting
from denoisezoo.profiling.state import undisturbed


def test_everything_comes_back(toy):
    toy.train()
    toy.head.eval()  # frozen by its owner
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with undisturbed(toy, torch.device("cpu")):
        assert not any(part.training for part in toy.modules())
        assert torch.is_inference_mode_enabled()
        torch.rand(100)
        toy.train()
    assert toy.training
    assert toy.blocks[0].conv.training
    assert not toy.head.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.rand(4), expected)


def test_everything_comes_back_after_an_exception(toy):
    toy.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()

    def look():
        with undisturbed(toy, torch.device("cpu")):
            torch.rand(100)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        look()
    assert toy.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_inference_mode_enabled()


def hooks_of(net):
    return [
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) for part in net.modules()
    ]


def test_profiling_leaves_everything_as_it_was(toy):
    toy.train()
    toy.head.eval()
    flags, state = [part.training for part in toy.modules()], torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    hooks, threads, fast_path = hooks_of(toy), torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    setting = Setting(torch.device("cpu"), runs=1)
    walk = Walk("ddpm", create_sampler("ddpm"), 2, lambda backbone: create_denoiser(backbone, "vp"))
    list(profile_backbone("toy", toy, setting, walk=walk, training=True))
    time_modules(toy, setting, 1.0)
    assert [part.training for part in toy.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], tensor) for name, tensor in toy.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in toy.parameters())
    assert hooks_of(toy) == hooks == [0] * len(hooks)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert (torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()) == (threads, fast_path)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
