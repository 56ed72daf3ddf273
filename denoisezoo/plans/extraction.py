"""Before sampling by a plan: each effort that it uses becomes a network of its own, so that time falls with MACs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from denoisezoo.archs import Backbone, Effort
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.plans.compiled import Compiled


class EffortTable(Backbone):
    """Networks of a single effort each, called by their efforts; the last is the default.

    Args:
        networks: One for each effort, in the order of their cost.
        compile: Compile each, for each shape of its input, with its weights as constants: they never change again. See
            `Compiled`.
    """

    def __init__(self, networks: Iterable[Backbone], compile: bool = False) -> None:
        nn.Module.__init__(self)
        found = list(networks)
        self.compiled = Compiled() if compile else None
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

    def check_inputs(self, x: Tensor, given: Given) -> None:
        """The network of the effort looks itself."""

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`."""
        network = self.network(effort)
        if self.compiled is not None and x.device.type != "meta":
            return self.compiled(network, x, c_noise, given)
        y: Tensor = network(x, c_noise, given)
        return y


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
    return denoiser.with_backbone(table)
