"""Before sampling by a plan: each effort that it uses becomes a network of its own, so that time falls with MACs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion import NetworkDenoiser


class EffortTable(Backbone):
    """Networks of a single effort each, called by their efforts; the last is the default.

    Args:
        networks: One for each effort, in the order of their cost.
        compile: Compile each, for each shape of its input, with its weights as constants: they never change again.
    """

    def __init__(self, networks: Iterable[Backbone], compile: bool = False) -> None:
        nn.Module.__init__(self)
        found = list(networks)
        self.compiled = compile
        if compile:
            for network in found:
                network.compile(dynamic=False)
        self.networks = nn.ModuleList(found)
        self.spec = found[-1].spec
        self.efforts = tuple(network.efforts[0] for network in found)

    def network(self, effort: Effort | None = None) -> Backbone:
        """The network of an effort.

        Raises:
            UserError: There is none.
        """
        found: Any = self.networks[self.efforts.index(self.check_effort(effort))]
        return found

    def num_params(self, effort: Effort | None = None) -> int:
        """See `Backbone.num_params`."""
        return super().num_params() if effort is None else self.network(effort).num_params(effort)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        *,
        label: Tensor | None = None,
        cond: Tensor | None = None,
        augment: Tensor | None = None,
        effort: Effort | None = None,
    ) -> Tensor:
        """See `Backbone.forward`."""
        network = self.network(effort)
        with _compiling(x.device) if self.compiled else contextlib.nullcontext():
            y: Tensor = network(x, c_noise, label=label, cond=cond, augment=augment)
        return y


@contextlib.contextmanager
def _compiling(device: torch.device) -> Iterator[None]:
    """Has what is compiled inside keep weights as constants, in the layout that its convolutions like best.

    On the CPU the kernels are also called from C++, since Python's share of a call weighs most in the small networks,
    and group norms stay ATen's: the compiler's own take 2 to 5 times as long on channels_last images (torch 2.15).
    Every effort at every shape is one more compilation of the same function; past the compiler's limit of 8 it would
    silently run eagerly. All these must hold when the compiler runs, which is at the first call; as an option of
    `torch.compile`, freezing has no effect.
    """
    import torch._dynamo.config
    import torch._inductor.config
    from torch._inductor.decomposition import decompositions

    cpu = device.type == "cpu"
    norm = torch.ops.aten.native_group_norm.default
    decomposed = decompositions.pop(norm, None) if cpu else None
    try:
        with (
            torch._inductor.config.patch(freezing=True, cpp_wrapper=cpu),
            torch._dynamo.config.patch(recompile_limit=256),
        ):
            yield
    finally:
        if decomposed is not None:
            decompositions[norm] = decomposed


def extracted(denoiser: NetworkDenoiser, efforts: Iterable[Effort], compile: bool = False) -> NetworkDenoiser:
    """A denoiser that has only some efforts, each as fast as its family can make it.

    Args:
        denoiser: Stays as it is.
        efforts: Those to take out.
        compile: Compile each network, for each shape of its input.

    Returns:
        In the mode, on the device and in the dtype of `denoiser`.

    Raises:
        UserError: The network lacks one of the efforts.
    """
    wanted = {denoiser.backbone.check_effort(effort) for effort in efforts}
    networks = [denoiser.backbone.extract(effort) for effort in denoiser.backbone.efforts if effort in wanted]
    table = EffortTable(networks, compile).train(denoiser.training)
    return NetworkDenoiser(table, denoiser.process, denoiser.preconditioning)
