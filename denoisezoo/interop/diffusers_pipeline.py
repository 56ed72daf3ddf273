"""Writing folders of diffusers: what `diffusers_folder` reads, by the same map of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from denoisezoo.archs import Effort, create_backbone
from denoisezoo.archs.backbone import Extracted
from denoisezoo.archs.ddpm import DDPMConfig
from denoisezoo.archs.unet import UNet
from denoisezoo.errors import UserError
from denoisezoo.files import write_json
from denoisezoo.interop.diffusers_folder import (
    CONFIG,
    FILES,
    FIXED,
    INDEX,
    NETWORK,
    SCHEDULER,
    DiffusersFolder,
    built,
    map_weights,
    network_of,
)
from denoisezoo.interop.diffusers_scheduler import VERSION, scheduler_of
from denoisezoo.interop.key_map import InverseMap
from denoisezoo.interop.programs import draw_states, frozen_copy, observed
from denoisezoo.interop.writer import WRITERS, Subject, Writer, Written


@WRITERS.register("diffusers")
class DiffusersPipeline(Writer):
    """Writes a folder that `DDPMPipeline.from_pretrained` and `UNet2DModel.from_pretrained` load.

    Only a network of DDPM's kind under DDPM's chain has a twin there. The folder is read back, and must give the same
    weights and, by the network that they then make, the same outputs.
    """

    def write(self, subject: Subject, folder: Path) -> list[Written]:
        """See `Writer.write`."""
        return [self._write_one(subject, effort, folder) for effort in subject.efforts]

    def _write_one(self, subject: Subject, effort: Effort, folder: Path) -> Written:
        denoiser = subject.denoiser
        if not denoiser.codec.identity:
            what = f"{subject.name} denoises latents of {denoiser.codec.title}"
            raise UserError(what, "export it as onnx or pt2: diffusers' pipeline is for pixels")
        network: nn.Module = denoiser.backbone.extract(effort)
        while isinstance(network, Extracted):
            network = network.network
        config = _configuration_of(network, subject.name)
        scheduler = scheduler_of(denoiser, subject.sampling)
        from safetensors.torch import save_file

        here = folder if subject.plan is None else folder / subject.stem(effort)
        unet = here / "unet"
        for place in (unet, here / "scheduler"):
            place.mkdir(parents=True)
        keys = InverseMap(network)
        map_weights(keys, built(network_of(unet / CONFIG, config)), config)
        write_json(
            here / INDEX,
            {
                "_class_name": "DDPMPipeline",
                "_diffusers_version": VERSION,
                "scheduler": ["diffusers", scheduler["_class_name"]],
                "unet": ["diffusers", NETWORK],
            },
        )
        write_json(here / "scheduler" / SCHEDULER, scheduler)
        fixed = {key: choices[0] for key, choices in FIXED.items()}
        write_json(unet / CONFIG, {"_class_name": NETWORK, "_diffusers_version": VERSION} | config | fixed)
        save_file(keys.found, unet / FILES[0], metadata={"format": "pt"})
        difference = self._read_back(subject, network, here)
        return Written(path=here.relative_to(folder), effort=effort, side=config["sample_size"], difference=difference)

    def _read_back(self, subject: Subject, network: nn.Module, here: Path) -> float:
        """The difference of outputs of the network that the folder gives; its weights must be the same."""
        found = DiffusersFolder().read(here, "ema")
        again = create_backbone(found.denoiser, **found.network).eval()
        again.load_state_dict(found.weights)
        written = frozen_copy(network)
        same = all(torch.equal(value, again.state_dict()[name]) for name, value in written.state_dict().items())
        denoiser = subject.denoiser.with_backbone(written)
        times = (denoiser.process.t_max, denoiser.process.t_min)
        x, c_noise, given = observed(denoiser, *draw_states(denoiser, times, 1))
        with torch.no_grad():
            difference = (again(x, c_noise, given) - written(x, c_noise, given)).abs().max().item()
        if not same or not difference <= 1e-5:
            what = f"{subject.name} has another network when it is read back from diffusers' format"
            raise UserError(what, "export it as safetensors, and please report this")
        return difference

    def usage(self, subject: Subject, written: Sequence[Written]) -> str:
        """See `Writer.usage`."""
        at = written[-1].path
        text = f'from diffusers import DDPMPipeline, UNet2DModel\n\nunet = UNet2DModel.from_pretrained("{at}/unet")\n'
        if subject.denoiser.backbone.spec.num_classes:  # the pipeline has no argument for labels
            return f"{text}y = unet(x, timestep, class_labels=label).sample"
        return f'{text}images = DDPMPipeline.from_pretrained("{at}")(batch_size=4).images'


def _configuration_of(network: nn.Module, name: str) -> dict[str, Any]:
    """The configuration of the `UNet2DModel` that does what a network does: the inverse of `network_of`.

    Raises:
        UserError: There is none.
    """
    config = getattr(network, "config", None)
    if not isinstance(network, UNet) or not isinstance(config, DDPMConfig):
        raise UserError(f"{name} has no twin in diffusers: it is no network of DDPM's kind", "export it as onnx or pt2")
    groups = {layer.num_groups for layer in network.modules() if isinstance(layer, nn.GroupNorm)}
    unlike = {
        "takes a conditioning image": config.cond_channels > 0,
        "takes augmentation labels": config.augment_dim > 0,
        "attends once in a level": config.attend_once,
        "has a fixed number of heads": config.num_heads > 0,
        f"has norms of {' and '.join(map(str, sorted(groups)))} groups": len(groups) != 1,
        "has another width in its first convolution than at full size": config.widths[0] != config.channels,
    }
    if reason := next((text for text, holds in unlike.items() if holds), None):
        what = f"{name} has no twin in diffusers: it {reason}"
        raise UserError(what, "export it as onnx or pt2")
    attends = [config.attends(level) for level in range(len(config.widths))]
    found = {
        "sample_size": config.resolution,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "down_block_types": ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "dropout": config.dropout,
        "attention_head_dim": config.head_channels or None,
        "norm_num_groups": groups.pop(),
        "norm_eps": config.norm_eps,
        "flip_sin_to_cos": config.cosines_first,
        "freq_shift": 1 if config.endpoint else 0,
        "downsample_padding": 1 if config.pad_around else 0,
        "num_class_embeds": config.num_classes or None,
    }
    twin = {key: value.shape for key, value in built(network_of(Path(CONFIG), found)).state_dict().items()}
    ours = {key: value.shape for key, value in network.state_dict().items()}
    if wrong := next((key for key in {**twin, **ours} if twin.get(key) != ours.get(key)), None):
        shapes = ("x".join(map(str, shapes[wrong])) if wrong in shapes else "none" for shapes in (ours, twin))
        what = "{} has no twin in diffusers: its {} is {}, and the twin's {}".format(name, wrong, *shapes)
        raise UserError(what, "export it as onnx or pt2")
    return found
