"""Networks that are compiled before sampling, their weights as constants, for each shape of their input."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoisezoo.archs import Backbone, allow_programs
from denoisezoo.nn.given import Given

Call = Callable[..., Tensor]
_COMPILED = itertools.count(1)
"""How many programs `torch.compile` was asked for here, this one included."""


class Compiled:
    """Calls networks through code that is compiled at the first call with inputs of a shape, layout and type.

    On the CPU it is compiled ahead of time (AOTInductor), so that nothing of Python is left inside a call: guards and
    wrappers of `torch.compile` take half a millisecond, which weighs most in the small networks of a plan. Elsewhere,
    and for networks that cannot be exported whole, `torch.compile` does it. No gradient flows back.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[Any, ...], Call] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """A copy has nothing compiled yet: what was, has the weights of the old networks."""
        return Compiled()

    def __call__(self, network: Backbone, x: Tensor, c_noise: Tensor, given: Given) -> Tensor:
        """`network(x, c_noise, given)`; see `Backbone.forward`."""
        network.check_inputs(x, given)
        key = (network, *map(_signature, (x, c_noise, *given)))
        if key not in self._calls:
            self._calls[key] = compiled_call(network, x, c_noise, given)
        return self._calls[key](x, c_noise, given)


def _signature(x: Tensor | None) -> tuple[Any, ...] | None:
    return None if x is None else (x.device, x.dtype, x.shape, x.stride())


def compiled_call(network: Backbone, x: Tensor, c_noise: Tensor, given: Given) -> Call:
    """What computes a network for inputs such as these.

    Args:
        network: Its weights become constants.
        x: Example of the input (B, C, H, W).
        c_noise: Example (B,).
        given: Example of what it is told.
    """
    if x.device.type != "cpu":
        return _just_in_time(network)
    # Sampling is done in inference mode, whose tensors cannot be traced.
    with torch.inference_mode(False), torch.no_grad():
        network.requires_grad_(False)
        examples = x.clone(), c_noise.clone(), Given(*(None if value is None else value.clone() for value in given))
        try:
            program = torch.export.export(network, examples)
        except Exception:  # whatever a network does that cannot be traced whole, as an adaptive solver's loop
            return _just_in_time(network)
        with tempfile.TemporaryDirectory() as folder, _settings(cpu=True):
            path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "network.pt2"))
            call: Call = torch._inductor.aoti_load_package(path)
    return call


def _just_in_time(network: Backbone) -> Call:
    cpu = next(network.parameters()).device.type == "cpu"
    # All of them have the code of one function, whose programs torch counts together.
    allow_programs(next(_COMPILED))
    compiled = torch.compile(lambda *args: network.forward(*args), dynamic=False)

    def call(x: Tensor, c_noise: Tensor, given: Given) -> Tensor:
        with _settings(cpu):  # they must hold when the compiler runs, which is at the first call
            y: Tensor = compiled(x, c_noise, given)
        return y

    return call


@contextlib.contextmanager
def _settings(cpu: bool) -> Iterator[None]:
    """Has what is compiled inside keep weights as constants, in the layout that its convolutions like best.

    As an option of `torch.compile`, freezing has no effect. On the CPU group norms stay ATen's: the compiler's own take
    2 to 5 times as long on channels_last images (torch 2.15).
    """
    import torch._inductor.config
    from torch._inductor.decomposition import decompositions
    from torch._inductor.lowering import lowerings, make_fallback

    norm = torch.ops.aten.native_group_norm.default
    decomposed = decompositions.pop(norm, None) if cpu else None
    if norm not in lowerings:
        # The compiler would add this by itself, but where the environment has CI it takes that for an error of its own.
        make_fallback(norm, warn=False, override_decomp=True)
    notes = logging.getLogger("torch._inductor.ir")  # one for each norm that it leaves to ATen
    level = notes.level
    notes.setLevel(logging.ERROR)
    try:
        with torch._inductor.config.patch(freezing=True):
            yield
    finally:
        notes.setLevel(level)
        if decomposed is not None:
            decompositions[norm] = decomposed
