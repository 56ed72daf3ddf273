import pytest
import torch

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
