"""FSDP: weights, gradients, moments and average divided among processes by torch's `fully_shard`, through Lightning.

The backbone is one unit, whole from the beginning of a pass to its end, so that networks may call their layers as they
like, and processes may make different numbers of calls. Between steps each process holds its share of every tensor.
Checkpoints hold whole tensors, the same as those of one process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.parallel import ParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm

from denoisezoo.errors import UserError

NAME = "fsdp2"
OPTIMIZERS = ("adam", "adamw")
"""Those whose step on a share of a tensor is the share of their step on the whole."""
PRECISIONS = ("32-true", "bf16-mixed")


class FSDP2(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard` over all processes, with whole checkpoints by the trainer's plugin.

    Lightning's own way with whole checkpoints numbers an optimiser's parameters in the order of the module, not of the
    optimiser, and loads weights before callbacks could say which of two sets of weights they are.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Divide among all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimisers are restored after weights and callbacks, by `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on the first process."""
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole moments on the first process."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return gathered(plain.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The file as the plugin reads it, on every process."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's share of whole weights."""
        ParallelStrategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's share of whole moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_share_of_moments(optimizer, state))


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, FSDP2, description="torch's fully_shard over all processes")


def refuse_strategy(flag: Any) -> None:
    """Refuse other strategies that divide weights: their averages and checkpoints would not be ours.

    Args:
        flag: What `trainer.strategy` of a recipe says, or the strategy itself.

    Raises:
        UserError: It is one of them.
    """
    name = flag if isinstance(flag, str) else type(flag).__name__
    divides = name.lower().startswith(("fsdp", "deepspeed", "modelparallel"))
    if divides and name not in (NAME, FSDP2.__name__):
        raise UserError(f"trainer.strategy {name} is not supported", f"use `trainer.strategy={NAME}`, or ddp")


def check_sharding(trainer: Any, module: Any) -> None:
    """Refuse what cannot be trained with divided weights; nothing under other strategies.

    Raises:
        UserError: What it is.
    """
    if not isinstance(trainer.strategy, FSDP2):
        return
    for wrong, what, cure in (
        (
            module.objective.opponents,
            "divides one network, and this objective has an adversary",
            "use `trainer.strategy=ddp`",
        ),
        (
            module.optimizer_config.name not in OPTIMIZERS,
            f"takes {' or '.join(OPTIMIZERS)}, and model.optimizer.name is {module.optimizer_config.name}",
            "use one of them, or `trainer.strategy=ddp`",
        ),
        (
            module.denoiser.backbone._compiled_call_impl is not None,
            "has not been tried on compiled networks",
            "use `model.compile=false`, or `trainer.strategy=ddp`",
        ),
        (
            str(trainer.precision) not in PRECISIONS,
            f"trains in {' or '.join(PRECISIONS)}, and trainer.precision is {trainer.precision}",
            f"use `trainer.precision={PRECISIONS[1]}`, or `trainer.strategy=ddp`",
        ),
    ):
        if wrong:
            raise UserError(f"trainer.strategy {NAME} {what}", cure)


def allow_unused(trainer: Any, module: Any) -> None:
    """Let DDP look for weights that a step leaves out, where steps choose among them; unasked it waits for all."""
    if module.chooses and isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


def keep_buffers(trainer: Any, module: Any) -> None:
    """Tell DDP not to send buffers before each pass, which all would wait for, unless passes change them."""
    if isinstance(trainer.strategy, DDPStrategy) and not any(map(_changes_buffers, module.modules())):
        trainer.strategy._ddp_kwargs.setdefault("broadcast_buffers", False)


def _changes_buffers(module: nn.Module) -> bool:
    return isinstance(module, _NormBase | _SpectralNorm) and bool(list(module.buffers(recurse=False)))


def shard(network: nn.Module, mesh: Any) -> None:
    """Divide the parameters of a network along their first dimension; it goes on taking whole weights when it loads.

    Args:
        network: Changed in place; channels-last weights become contiguous, as shares must be.
        mesh: The processes, a `DeviceMesh` of one dimension.
    """
    network.to(memory_format=torch.contiguous_format)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    network.register_load_state_dict_pre_hook(_take_shares)


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` has divided it."""
    return isinstance(network, FSDPModule)


def unshard(network: nn.Module) -> None:
    """Make the weights whole for coming calls, which then are no business of other processes; all must do it."""
    if isinstance(network, FSDPModule):
        with torch.inference_mode(False):  # the tensors made here serve training, too
            network.unshard()


def reshard(network: nn.Module) -> None:
    """Go back to this process's share of the weights. Until then changes of the shares do not show."""
    if isinstance(network, FSDPModule):
        network.reshard()


@contextlib.contextmanager
def full_weights(network: nn.Module) -> Iterator[None]:
    """Within it the weights are whole."""
    unshard(network)
    try:
        yield
    finally:
        reshard(network)


def spoiled(network: nn.Module) -> Tensor:
    """Not a number, by way of every weight: a backward pass from it takes part in what others' backward passes do."""
    network.forward = lambda: math.nan * total(network)  # FSDP goes by calls of the module
    try:
        found: Tensor = nn.Module.__call__(network)  # without a look at inputs, of which there are none
    finally:
        del network.forward
    return found


def total(network: nn.Module) -> Tensor:
    """The sum of all weights that are trained."""
    return torch.stack([p.sum() for p in network.parameters() if p.requires_grad]).sum()


def used_alike(network: nn.Module, loss: Tensor) -> Tensor:
    """The loss, with a gradient of zero for weights on which it depends in another process but not in this one.

    Gradients are summed in one go, for which all processes must have those of the same weights. What none of them uses
    has no gradient, as in a single process.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    known = _leaves(loss)
    here = torch.tensor([float(id(parameter) in known) for parameter in trained], device=loss.device)
    anywhere = here.clone()
    dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
    lacking = [parameter for parameter, lacks in zip(trained, (anywhere > here).tolist(), strict=True) if lacks]
    return loss + 0 * torch.stack([parameter.sum() for parameter in lacking]).sum() if lacking else loss


def _leaves(loss: Tensor) -> set[int]:
    """The `id`s of the tensors that a backward pass from `loss` comes to."""
    nodes, seen, found = [loss.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        nodes += [following for following, _ in node.next_functions]
    return found


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each tensor, of all its shares together; all processes must ask for the same ones."""
    first = tensors[0]
    if not isinstance(first, DTensor):
        return torch.stack(torch._foreach_norm(list(tensors))).float()
    local = torch.stack(torch._foreach_norm([mine(tensor) for tensor in tensors])).float()
    squares = local.double().square()  # in one go: a DTensor's own norm would wait for the others for each tensor
    dist.all_reduce(squares, group=first.device_mesh.get_group())
    return squares.sqrt().float()


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether all values are finite, as one boolean; of divided tensors, those of this process.

    By the check that torch's own loss scaling makes, which is one kernel for all tensors on a GPU and takes half the
    time of the norms on a CPU. It also multiplies by 1.
    """
    local = [mine(tensor) for tensor in tensors]
    if {tensor.dtype for tensor in local} != {torch.float32}:
        return torch.stack([tensor.isfinite().all() for tensor in local]).all()
    found, one = local[0].new_zeros(1), local[0].new_ones(1)
    torch._amp_foreach_non_finite_check_and_unscale_(local, found, one)
    return found[0] == 0


def mine(tensor: Tensor) -> Tensor:
    """This process's share of a tensor; of one that is not divided, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """A state with whole tensors, on the CPU of the first process; elsewhere they are empty. All must call it."""

    def gather(tensor: DTensor) -> Tensor:
        full = tensor.full_tensor()
        return full.cpu() if dist.get_rank() == 0 else full.new_empty(0)

    return apply_to_collection(state, DTensor, gather)


def share_of(full: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, divided as `like` is."""
    if not isinstance(like, DTensor) or isinstance(full, DTensor) or full.shape != like.shape:
        return full
    full = full.to(like.device).contiguous()
    # Every process has read all of it; a copy, lest a share keep the memory of the whole.
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None).clone()


def _take_shares(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a network loads whole weights, take this process's share of them."""
    for name, parameter in module.named_parameters():
        if (full := state.get(prefix + name)) is not None:
            state[prefix + name] = share_of(full, parameter)


def _share_of_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimiser with this process's share of its moments; its keys number the parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shares: dict[int, dict[str, Any]] = {}
    for index, moments in state["state"].items():
        like = parameters[index]
        shares[index] = {
            k: share_of(value, like) if isinstance(value, Tensor) else value for k, value in moments.items()
        }
    return state | {"state": shares}
