"""Folders of small autoencoders of diffusers with random weights, which halve images."""

import json

import torch

PAIR = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
KINDS = {
    "autoencoder_kl": (
        "AutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
            "scaling_factor": 0.7,
            "shift_factor": 0.3,
            "sample_size": 16,
        },
    ),
    "autoencoder_dc": (
        "AutoencoderDC",
        PAIR
        | {
            "latent_channels": 4,
            "attention_head_dim": 4,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), ()),
            "decoder_qkv_multiscales": ((), ()),
            "scaling_factor": 0.4,
        },
    ),
    "autoencoder_tiny": ("AutoencoderTiny", PAIR | {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}),
}


def write_autoencoder(folder, name, channels=3, seed=0, **changes):
    """Write one that halves images into a folder; returns it, in evaluation mode."""
    import diffusers

    title, options = KINDS[name]
    sides = {"in_channels": channels} | ({} if name == "autoencoder_dc" else {"out_channels": channels})
    torch.manual_seed(seed)
    found = getattr(diffusers, title)(**(options | sides | changes))
    found.save_pretrained(folder)
    return found.eval().requires_grad_(False)


def change_config(folder, **changes):
    """Change a folder's configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
