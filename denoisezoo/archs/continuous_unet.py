"""The continuous U-Net: an ODE block per level, where other U-Nets have residual blocks; a family chooses the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from denoisezoo.archs.backbone import Backbone, BackboneConfig, Effort
from denoisezoo.archs.unet import with_image
from denoisezoo.archs.variants import replace_config
from denoisezoo.errors import UserError
from denoisezoo.nn.blocks import Conditioning, RMSAttention, Stage, kaiming
from denoisezoo.nn.embeddings import BareEmbedding, NoiseEmbedding
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.ode_block import ApproximatorStyle, ODEBlock, UntiedBlock, VectorField
from denoisezoo.nn.solvers import Solver


@dataclass(frozen=True, kw_only=True)
class ContinuousUNetConfig(BackboneConfig):
    """Sizes and solver of a continuous U-Net.

    Attributes:
        widths: Channels of each level, the full resolution first; the last is the middle.
        attention: Resolutions (pixels) with self-attention after the ODE blocks.
        heads: Attention heads.
        head_channels: Channels of a head, whatever the width of the level.
        timed: Whether the fields depend on solver time.
        tied: Whether the evaluations of a block share their weights; if not, one Euler step for each.
        solver: Name of the solver; see `archs.solvers`.
        steps: Solver steps to choose from, increasing; the last is the default. They are the efforts.
        single_step_levels: So many levels, from the full resolution down, never take more than one step.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of it.
        min_step: Smallest step of it.
        max_num_steps: Most steps that it may try.
        adjoint: Gradients by the adjoint equation: less memory, more time.
    """

    resolution: int = 64
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    attention: tuple[int, ...] = (8,)
    heads: int = 4
    head_channels: int = 32
    timed: bool = False
    tied: bool = True
    solver: str = "rk4"
    steps: tuple[int, ...] = (1,)
    single_step_levels: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3
    min_step: float = 0.0
    max_num_steps: int = 1000
    adjoint: bool = False

    @property
    def integration(self) -> Solver:
        """The solver with its settings."""
        return Solver(self.solver, self.rtol, self.atol, self.min_step, self.max_num_steps, self.adjoint)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """Solver steps; an adaptive solver chooses them itself."""
        return (1.0,) if self.integration.adaptive else tuple(float(n) for n in self.steps)

    @property
    def halvings(self) -> int:
        """How often the size is halved."""
        return len(self.widths) - 1

    def validate(self) -> None:
        """See `BackboneConfig.validate`."""
        super().validate()
        self.integration.validate()
        if len(self.widths) < 2 or min(self.widths) < 2 or any(width % 2 for width in self.widths):
            raise UserError(f"widths is {self.widths}", "give at least two even numbers, the full resolution first")
        if not self.steps or min(self.steps) < 1 or list(self.steps) != sorted(set(self.steps)):
            raise UserError(f"steps is {self.steps}", "give increasing whole numbers of at least 1, e.g. (1, 2, 4)")
        if not self.tied and (self.solver, len(self.steps), self.adjoint) != ("euler", 1, False):
            raise UserError("untied blocks have no solver to choose", "use solver=euler and one number of steps")
        for name in ("heads", "head_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give a whole number of at least 1")
        self.require_halvings(self.halvings)
        if self.resolution >> self.halvings < 2:
            raise UserError("the middle has a single pixel, whose norm is zero", "give fewer widths")


Width = int


@dataclass(frozen=True)
class ContinuousDesign:
    """What a family chooses.

    Attributes:
        field: Makes the vector field for a number of channels.
        style: Its function approximator; whether it is conditioned and timed is the configuration's.
        stem: Makes the map from the image to the first state, for its channels and the state's.
        down: Makes the map to half the size, for the channels of both levels.
        up: Makes the map (state below, skip) -> state, for the channels of the level below and its own.
        head: Makes the map from the last state to the output, for the channels of both.
        replaces: Whether attention replaces the features instead of adding to them.
    """

    field: Callable[[Width, ApproximatorStyle], VectorField]
    style: ApproximatorStyle
    stem: Callable[[Width, Width], nn.Module]
    down: Callable[[Width, Width], nn.Module]
    up: Callable[[Width, Width], nn.Module]
    head: Callable[[Width, Width], nn.Module]
    replaces: bool = False


class ContinuousUNet(Backbone):
    """Encoder, middle and decoder of ODE blocks; a skip from every encoder level, taken after its attention.

    Args:
        config: Sizes and solver.
        design: The family's choices.
        embedding: Embeds the noise level; None for a network that is blind to it.
    """

    def __init__(
        self, config: ContinuousUNetConfig, design: ContinuousDesign, embedding: BareEmbedding | NoiseEmbedding | None
    ) -> None:
        super().__init__(config)
        style = replace(design.style, conditioned=embedding is not None, timed=config.timed)
        widths, levels = config.widths, range(config.halvings)

        def block(level: int, name: str) -> Stage:
            most = 1 if level < config.single_step_levels else None
            if config.tied:
                return ODEBlock(design.field(widths[level], style), config.integration, name, most)
            return UntiedBlock([design.field(widths[level], style) for _ in range(most or config.steps[0])])

        def attention(level: int) -> nn.Module:
            if config.resolution >> level not in config.attention:
                return nn.Identity()
            residual = not design.replaces
            return RMSAttention(widths[level], config.heads, config.head_channels, residual, gain=float(not residual))

        self.factor = 2**config.halvings
        self.stem = design.stem(config.in_channels + config.cond_channels, widths[0])
        self.encoder = nn.ModuleList(block(level, f"encoder.{level}") for level in levels)
        self.encoder_attention = nn.ModuleList(attention(level) for level in levels)
        self.down = nn.ModuleList(design.down(widths[level], widths[level + 1]) for level in levels)
        self.middle = block(config.halvings, "middle")
        self.middle_attention = attention(config.halvings)
        self.up = nn.ModuleList(design.up(widths[level + 1], widths[level]) for level in reversed(levels))
        self.decoder = nn.ModuleList(block(level, f"decoder.{n}") for n, level in enumerate(reversed(levels)))
        self.decoder_attention = nn.ModuleList(attention(level) for level in reversed(levels))
        self.head = design.head(widths[0], config.out_channels)
        self.embedding = embedding
        self.conditioning = None if embedding is None else Conditioning(embedding.width, self.blocks, kaiming)

    @property
    def blocks(self) -> list[Stage]:
        """The ODE blocks in the order in which they run."""
        return [*self.encoder, self.middle, *self.decoder]

    def forward(self, x: Tensor, c_noise: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Tensor:
        """See `Backbone.forward`; the effort is the number of solver steps."""
        effort = self.check_effort(effort)
        embedding = None if self.embedding is None else self.embedding(c_noise, given)
        image = with_image(x, given)
        return self.evaluate(self.stem(image), embedding, image, c_noise, effort)

    def evaluate(self, h: Tensor, embedding: Tensor | None, image: Tensor, c_noise: Tensor, effort: Effort) -> Tensor:
        """All that follows the stem's output h (B, C, H, W) and the embedding (B, E) of the noise level, if any."""
        steps, conditions, skips = int(effort), self.conditions(h, embedding), []
        for block, attention, down in zip(self.encoder, self.encoder_attention, self.down, strict=True):
            skips.append(attention(block(h, next(conditions), steps, c_noise)))
            h = down(skips[-1])
        h = self.middle_attention(self.middle(h, next(conditions), steps, c_noise))
        for up, block, attention in zip(self.up, self.decoder, self.decoder_attention, strict=True):
            h = attention(block(up(h, skips.pop()), next(conditions), steps, c_noise))
        return self.head(h)

    def conditions(self, h: Tensor, embedding: Tensor | None) -> Iterator[Tensor]:
        """Conditioning of each block, (B, c_width), in the order in which they run."""
        if embedding is None or self.conditioning is None:
            return iter([h.new_empty(h.shape[0], 0)] * len(self.blocks))
        return iter(self.conditioning(embedding.to(self.conditioning.weight.dtype)))


def with_solver(net: Backbone, solver: str, **overrides: Any) -> Backbone:
    """The network under another solver. Its weights are the same tensors, so it costs no memory and follows training.

    Args:
        net: A network of ODE blocks; it stays as it is.
        solver: Name of the solver, e.g. "euler" or "dopri5".
        **overrides: Further fields of its configuration, e.g. `steps=(8,)` or `rtol=1e-4, atol=1e-4`.

    Raises:
        UserError: The network has no solver, or there is no such solver or field.
    """
    if not hasattr(net.config, "solver"):
        raise UserError(f"{type(net).__name__} has no solver", "choose a network of ODE blocks")
    config = replace_config(net.config, {"solver": solver, **overrides}, type(net).__name__)
    with torch.device("meta"):
        twin = type(net)(config)
    twin.load_state_dict(net.state_dict(), assign=True)
    for parameter, original in zip(twin.parameters(), net.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return twin.train(net.training)
