"""Checkpoints of The Missing U, `model-*.pt` (Calvo-Ordonez et al. 2023, arXiv 2310.20092; Sergio20f/cDDPM).

Its trainer is lucidrains/denoising-diffusion-pytorch's. The betas of the chain lie in the file, and tell the schedule;
what the network predicts does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from denoisezoo.diffusion import PROCESSES
from denoisezoo.errors import UserError
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap, matrix
from denoisezoo.interop.tensor_files import read_torch, require_state
from denoisezoo.interop.unet_map import build_on_meta

CURE = "give a model-N.pt of Sergio20f/cDDPM's ConvSODEUNet"
HALVINGS = 4
BLOCKS = {f"encoder.{n}": f"odeblock_down{n + 1}" for n in range(HALVINGS)}
BLOCKS |= {"middle": "odeblock_embedding"} | {f"decoder.{n}": f"odeblock_up{n + 1}" for n in range(HALVINGS)}
"""Our ODE blocks in the order in which they run -> theirs."""
DOWN = ("conv_down1_2", "conv_down2_3", "conv_down3_4", "conv_down4_embed")
UP = ("conv_up_embed_1", "conv_up1_2", "conv_up2_3", "conv_up3_4")
ATTENTION = {"encoder_attention.3": "attention_encoder4", "decoder_attention.0": "attention_decoder1"}
SCHEDULES = ("sigmoid", "cosine", "linear")
OBJECTIVES = {"pred_v": "V", "pred_noise": "Epsilon", "pred_x0": "X0"}


@FORMATS.register("missing_u")
@dataclass(frozen=True)
class MissingUCheckpoint(Format):
    """Reads the averaged or the trained network, with or without time conditioning, as the file has it.

    Attributes:
        image_size: Height and width of the images.
        objective: What the network predicts, as the trainer's flag has it.
    """

    kept = ("ema", "raw")
    image_size: int = 64
    objective: Literal["pred_v", "pred_noise", "pred_x0"] = "pred_v"

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        found = read_torch(path)
        key, prefix = ("ema", "ema_model.") if weights == "ema" else ("model", "")
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path} is no checkpoint of The Missing U: it holds no {key!r}", CURE)
        state = {k.removeprefix(prefix): v for k, v in require_state(found[key], path, f"{key!r}").items()}
        theirs = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        timed = any(".mlp." in name for name in theirs)
        network = self._network(path, theirs)
        name = "missing_u_64_time" if timed else "missing_u_64"
        net = build_on_meta(name, network)
        keys = KeyMap(net, theirs, path, CURE)
        _map(keys, timed)
        return Foreign(
            denoiser=name,
            network=network,
            process=_process(path, state.get("betas")),
            preconditioning=part(OBJECTIVES[self.objective]),
            objective=part("Simple"),
            weights=keys.finish(),
            sampler="ddpm",
            steps=1000,
            file=path,
        )

    def _network(self, path: Path, theirs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Our configuration, read off the shapes."""

        def shape(name: str, dimensions: int) -> tuple[int, ...]:
            if name not in theirs or theirs[name].ndim != dimensions:
                raise UserError(f"{path} is no network of this kind: {name} is missing or of another kind", CURE)
            return tuple(theirs[name].shape)

        width = shape("initial_velocity.conv2.weight", 4)[0]
        rows, embedding = shape("time_embed.weight", 2)
        attends = any(name.startswith(tuple(ATTENTION.values())) for name in theirs)
        return {
            "resolution": self.image_size,
            "in_channels": shape("initial_velocity.conv1.weight", 4)[1],
            "out_channels": shape("classifier.weight", 4)[0],
            "widths": [width << level for level in range(HALVINGS + 1)],
            "attention": [self.image_size >> 3] if attends else [],
            "embedding": embedding,
            "table": rows,
        }


def _process(path: Path, betas: Tensor | None) -> dict[str, Any]:
    """The chain whose betas these are.

    Raises:
        UserError: They are missing, or of another schedule.
    """
    if betas is None or betas.ndim != 1 or not len(betas):
        raise UserError(f"{path} holds no betas", CURE)
    T = len(betas)
    scaled = {"beta_start": 0.1 / T, "beta_end": 20 / T}
    for schedule in SCHEDULES:
        arguments = {"schedule": schedule, "T": T, **(scaled if schedule == "linear" and T > 20 else {})}
        ours: Any = PROCESSES["vp_discrete"](**arguments)
        if bool(((ours.betas - betas.double()).abs() <= 1e-6 + 1e-4 * ours.betas).all()):
            return part("VPDiscrete", **arguments)
    raise UserError(
        f"the betas in {path} are those of no known schedule", f"only {', '.join(SCHEDULES)} are known here"
    )


def _map(keys: KeyMap, timed: bool) -> None:
    """Take all weights."""
    keys.copy("table", "time_embed.weight")
    keys.layer("stem.conv0", "initial_velocity.conv1")
    keys.layer("stem.conv1", "initial_velocity.conv2")
    keys.layer("head", "classifier")
    for ours, theirs in BLOCKS.items():
        keys.layer(f"{ours}.field.approximator.conv0", f"{theirs}.odefunc.conv1")
        keys.layer(f"{ours}.field.approximator.conv1", f"{theirs}.odefunc.conv2")
    for n in range(HALVINGS):
        keys.layer(f"down.{n}.conv", DOWN[n])
        keys.layer(f"up.{n}.conv", UP[n])
    for ours, theirs in ATTENTION.items():
        if f"{ours}.qkv.weight" in keys.shapes:
            keys.copy(f"{ours}.norm.scale", f"{theirs}.norm.g", lambda x: x.flatten())
            keys.layer(f"{ours}.qkv", f"{theirs}.to_qkv", matrix)
            keys.layer(f"{ours}.out", f"{theirs}.to_out", matrix)
    if timed:
        for kind in ("weight", "bias"):
            keys.join(f"conditioning.{kind}", [f"{theirs}.odefunc.mlp.1.{kind}" for theirs in BLOCKS.values()])
