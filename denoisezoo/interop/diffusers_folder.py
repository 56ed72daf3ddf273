"""Folders of diffusers: a DDPM or DDIM pipeline, or a `UNet2DModel` with a scheduler's configuration beside it.

What a configuration leaves out has the library's default, which is not DDPM's own. Each field is read or refused by
name, since a network of another kind may have the same shapes. diffusers itself is not needed.
What is written, and read back, is in `diffusers_pipeline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError, unknown
from denoisezoo.interop.diffusers_scheduler import Schedule, read_scheduler
from denoisezoo.interop.foreign import FORMATS, Foreign, Format, Weights, part
from denoisezoo.interop.key_map import KeyMap
from denoisezoo.interop.tensor_files import read_json, read_safetensors, read_state, require_state
from denoisezoo.interop.unet_map import Names, Position, build_on_meta, map_stages, multiplier, positions

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Weights of a network, the safe format first."""
NETWORK = "UNet2DModel"
TWIN = "ddpm_cifar10"
"""The network of the zoo that, with other sizes, is a `UNet2DModel`."""
READ: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "num_class_embeds": None,
}
"""Fields of `UNet2DModel` that sizes and layers are read off, and the library's defaults."""
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_train_timesteps": (None, 1000),
}
"""Fields that must be as they are by default."""
NAMES = Names(
    block={"norm0": "norm1", "conv0": "conv1", "norm1": "norm2", "conv1": "conv2", "skip": "conv_shortcut"},
    condition="time_emb_proj",
    attention={"norm": "group_norm", "out": "to_out.0"},
    qkv=("to_q", "to_k", "to_v"),
)
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the layers of an attention in older files -> those of today."""


@FORMATS.register("diffusers")
@dataclass(frozen=True)
class DiffusersFolder(Format):
    """Reads a pipeline, or a network with a scheduler.

    Attributes:
        schedule: Noise schedule of a folder that has no scheduler in it: DDPM's, or improved DDPM's.
    """

    schedule: Literal["linear", "cosine"] | None = None

    def read(self, path: Path, weights: Weights) -> Foreign:
        """See `Format.read`."""
        network_folder, scheduler = _components(path)
        config = _configuration(network_folder / CONFIG)
        network = network_of(network_folder / CONFIG, config)
        schedule = self._schedule(path, scheduler, config)
        file, theirs = _weights(network_folder)
        backbone = built(network)
        keys = KeyMap(backbone, theirs, file, f"give weights that belong to {network_folder / CONFIG}")
        map_weights(keys, backbone, config)
        return Foreign(
            denoiser=TWIN,
            network=network,
            process=schedule.process,
            preconditioning=schedule.preconditioning,
            objective=part("Simple"),
            weights=keys.finish(),
            sampler=schedule.sampler,
            steps=schedule.steps,
            file=file,
            facts={"network": NETWORK, "scheduler": schedule.name, **_latents(path)},
        )

    def _schedule(self, path: Path, scheduler: Path | None, config: Mapping[str, Any]) -> Schedule:
        learned = config["out_channels"] == 2 * config["in_channels"]
        if scheduler is not None:
            if self.schedule is not None:
                raise UserError(f"schedule is given, and {scheduler} says it", "leave it out")
            return read_scheduler(scheduler, learned)
        if self.schedule is None:
            raise UserError(
                f"{path} holds no {INDEX} and no {SCHEDULER}, so that its noise schedule is not known",
                "give the whole pipeline, or diffusers,schedule=linear:PATH",
            )
        return Schedule.plain(self.schedule)


def _components(path: Path) -> tuple[Path, Path | None]:
    """The folder of the network, and the scheduler's configuration where there is one.

    In older pipelines a component has no folder of its own, and its files lie beside the index.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder", f"give one with {INDEX} or {CONFIG} in it")
    if (path / INDEX).is_file():
        index = read_json(path / INDEX)
        found = index.get("unet")
        if not isinstance(found, list) or found[-1:] != [NETWORK] or found[:1] != ["diffusers"]:
            named = found if isinstance(found, list) and all(isinstance(x, str) for x in found) else ["none"]
            raise UserError(
                f"the network of {path} is {'.'.join(named):.80}", f"only diffusers' {NETWORK} is known here"
            )
    elif not (path / CONFIG).is_file():
        raise UserError(f"{path} holds neither {INDEX} nor {CONFIG}", "give the folder of a pipeline or of a network")
    network = path / "unet" if (path / "unet" / CONFIG).is_file() else path
    beside = [path / "scheduler" / SCHEDULER, path / SCHEDULER]
    beside += [] if (path / INDEX).is_file() else [path.parent / "scheduler" / SCHEDULER]
    return network, next((file for file in beside if file.is_file()), None)


def _latents(path: Path) -> dict[str, Any]:
    """What is known of the latents of a pipeline that has an autoencoder: whose they are."""
    index = read_json(path / INDEX) if (path / INDEX).is_file() else {}
    found = index.get("vae") or index.get("vqvae")
    return {"latents": {"autoencoder": str(found[-1])}} if isinstance(found, list) and found else {}


def _configuration(file: Path) -> dict[str, Any]:
    """All fields of a network's configuration that are read, each of the type of its default."""
    given = read_json(file)
    if (kind := given.get("_class_name", NETWORK)) != NETWORK:
        raise UserError(f"{file} is of a {kind!r:.60}", f"only {NETWORK} is known here")
    for key, value in given.items():
        if key in FIXED and value not in FIXED[key]:
            raise UserError(f"{file} has {key} {value!r:.40}", f"only {FIXED[key][0]!r} is known here")
        if not key.startswith("_") and key not in FIXED and key not in READ:
            raise unknown(f"field of {NETWORK} in {file}:", key, [*READ, *FIXED])
    config = {key: given.get(key, default) for key, default in READ.items()}
    if isinstance(config["sample_size"], list) and len(set(map(str, config["sample_size"]))) == 1:
        config["sample_size"] = config["sample_size"][0]
    for key, value in config.items():
        values = value if isinstance(READ[key], list) and isinstance(value, list) and value else [value]
        kinds = (str,) if key.endswith("types") else (int, float) if isinstance(READ[key], float) else (int,)
        optional = READ[key] is None or key == "attention_head_dim"
        if not all(isinstance(v, kinds) and (isinstance(v, str) or v >= 0) for v in values) and not (
            optional and value is None
        ):
            raise UserError(f"{file} has {key} {value!r:.40}", f"give one such as {READ[key]!r}")
    if config["sample_size"] is None:
        raise UserError(f"{file} does not say the sample_size", "add it: the height and width of the images")
    return config


def network_of(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Our configuration of a network."""
    widths, downs, ups = (config[key] for key in ("block_out_channels", "down_block_types", "up_block_types"))
    attends = [kind == "AttnDownBlock2D" for kind in downs]
    mirrored = ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)]
    for kind in downs:
        if kind not in {"DownBlock2D", "AttnDownBlock2D"}:
            raise UserError(f"{file} has a {kind:.60}", "only DownBlock2D and AttnDownBlock2D are known here")
    if len(widths) != len(downs) or ups != mirrored:
        raise UserError(f"{file} has up_block_types that do not mirror its down_block_types", f"only {mirrored} fits")
    for key, choices in {"freq_shift": (0, 1), "downsample_padding": (0, 1), "flip_sin_to_cos": (False, True)}.items():
        if config[key] not in choices:
            raise UserError(f"{file} has {key} {config[key]}", f"only {choices[0]} and {choices[1]} are known here")
    size = config["sample_size"]
    return {
        "resolution": size,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "num_classes": config["num_class_embeds"] or 0,
        "augment_dim": 0,
        "cond_channels": 0,
        "channels": widths[0],
        "multipliers": [multiplier(width, widths[0]) for width in widths],
        "blocks": config["layers_per_block"],
        "attention": [size >> level for level, attend in enumerate(attends) if attend],
        "dropout": float(config["dropout"]),
        "num_heads": 0,
        "head_channels": config["attention_head_dim"] or 0,
        "norm_groups": config["norm_num_groups"],
        "norm_eps": float(config["norm_eps"]),
        "attend_once": False,
        "cosines_first": bool(config["flip_sin_to_cos"]),
        "endpoint": config["freq_shift"] == 1,
        "pad_around": config["downsample_padding"] == 1,
    }


def _weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of the weights, or of the list of its parts, and the tensors, under today's names."""
    for name in FILES:
        file = folder / name
        if file.is_file():
            return file, _renamed(read_state(file))
        if (folder / f"{name}.index.json").is_file():
            return folder / f"{name}.index.json", _renamed(_sharded(folder / f"{name}.index.json"))
    raise UserError(f"{folder} holds no weights", f"give a folder with {FILES[0]} or {FILES[1]}")


def _sharded(index: Path) -> dict[str, Tensor]:
    names = read_json(index).get("weight_map")
    files = {name for name in names.values() if isinstance(name, str)} if isinstance(names, dict) else set()
    if not files or any(Path(name).name != name for name in files):
        raise UserError(f"{index} does not name files beside it", "fetch the folder again")
    found: dict[str, Tensor] = {}
    for name in sorted(files):
        file = index.with_name(name)
        found |= read_safetensors(file) if file.suffix == ".safetensors" else require_state(read_state(file), file)
    return found


def _renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Older names of an attention's layers as those of today."""
    found = {}
    for key, value in theirs.items():
        head, _, layer = key.rpartition(".")
        room, _, name = head.rpartition(".")
        found[f"{room}.{OLD[name]}.{layer}" if ".attentions." in key and name in OLD else key] = value
    return found


def built(network: Mapping[str, Any]) -> UNet:
    """Our network of a configuration, without weights."""
    backbone = build_on_meta(TWIN, network)
    assert isinstance(backbone, UNet), "the variant is a U-Net"
    return backbone


def map_weights(keys: KeyMap, net: UNet, config: Mapping[str, Any]) -> None:
    """Take all weights, or give them."""
    keys.layer("embedding.first", "time_embedding.linear_1")
    keys.layer("embedding.second", "time_embedding.linear_2")
    if config["num_class_embeds"]:
        keys.layer("embedding.late.classes.table", "class_embedding")
    keys.layer("stem", "conv_in")
    keys.layer("norm", "conv_norm_out")
    keys.layer("head", "conv_out")
    levels = len(config["block_out_channels"])

    def place(position: Position) -> tuple[str, str]:
        level, block = position.level, position.block
        if position.part == "middle":
            return f"mid_block.resnets.{block}", "mid_block.attentions.0"
        # Levels of the decoder are counted from the smallest size; what changes it ends the level before.
        room = f"down_blocks.{level}" if position.part == "encoder" else f"up_blocks.{levels - 1 - level}"
        if block is not None:
            return f"{room}.resnets.{block}", f"{room}.attentions.{block}"
        if position.part == "encoder":
            return f"down_blocks.{level - 1}.downsamplers.0", ""
        return f"up_blocks.{levels - 2 - level}.upsamplers.0", ""

    map_stages(keys, net, {p: place(p) for p in positions(levels, config["layers_per_block"])}, NAMES)
