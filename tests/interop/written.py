"""Small files in the layouts of others, with weights by a formula.

A file in `layouts/` lists the tensors of a small network of the code that it is named after: name, shape, and "buffer"
where it is not trained. The numbers that tests compare with are what that code returned for the weights of `filled`.
"""

import math
import pickle
import sys
from pathlib import Path
from types import ModuleType

import torch

LAYOUTS = Path(__file__).parent / "layouts"


def layout(name):
    """Name -> shape of the trained tensors, and of the buffers."""
    trained, buffers = {}, {}
    for line in (LAYOUTS / f"{name}.txt").read_text().splitlines():
        key, shape, *buffer = line.split()
        (buffers if buffer else trained)[key] = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    return trained, buffers


def filled(shapes):
    """Every weight lively: sin(k^2/7 + i) at element k of tensor i, scaled to its fan-in; norms around 1."""
    weights = {}
    for i, (name, shape) in enumerate(shapes.items()):
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        value = scale * torch.sin(k.square() / 7 + i).reshape(shape)
        weights[name] = (value + (len(shape) == 1 and name.endswith("weight"))).float()
    return weights


def image(*shape):
    """A fixed image."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k.square() / 7).reshape(shape).float()


def eight(y):
    """Eight numbers of the second image."""
    y = y[1].flatten()
    return y[:: len(y) // 8]


class Persistent:
    """An object as EDM's `persistence` pickles it."""

    def __init__(self, class_name, source="import never_imported", version=6, **state):
        self.meta = {
            "type": "class",
            "version": version,
            "module_src": source,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def persistence(monkeypatch):
    """Let pickles name EDM's function, which is not there."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a file was run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module = ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


def tree(weights, trained):
    """Weights by dotted name as states of nested modules."""
    state = {"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}}
    inner = {}
    for name, value in weights.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            kept = torch.nn.Parameter(value, requires_grad=False) if name in trained else value
            state["_parameters" if name in trained else "_buffers"][name] = kept
    for head, values in inner.items():
        names = {name.partition(".")[2] for name in trained if name.startswith(f"{head}.")}
        below = tree(values, names)
        if head in {"enc", "dec"}:
            state["_modules"][head] = torch.nn.ModuleDict()
            state["_modules"][head].__dict__["_modules"] = below["_modules"]
        else:
            state["_modules"][head] = Persistent("Linear", **below)
    return state


SONG = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.1}
NCSN = {
    **SONG,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
ADM = {"model_channels": 32, "channel_mult": [1, 4], "num_blocks": 1, "attn_resolutions": [4]}
LABELS = {"label_dim": 3, "augment_dim": 2}
SNAPSHOTS = {
    "edm_ddpmpp": ("EDMPrecond", {"sigma_data": 0.5}, "SongUNet", SONG | LABELS, 3),
    "edm_ncsnpp": ("VEPrecond", {"sigma_min": 0.02, "sigma_max": 100}, "SongUNet", NCSN, 3),
    "edm_adm": ("iDDPMPrecond", {"M": 1000, "C_1": 0.001, "C_2": 0.008}, "DhariwalUNet", ADM | LABELS, 6),
    "edm_ddpmpp_vp": (
        "VPPrecond",
        {"M": 1000, "beta_d": 19.9, "beta_min": 0.1, "epsilon_t": 1e-5},
        "SongUNet",
        SONG,
        3,
    ),
}


def snapshot(name, change=lambda weights: None, **arguments):
    """What a snapshot of EDM holds: the object to pickle."""
    kind, state, network, sizes, outputs = SNAPSHOTS[name]
    trained, buffers = layout(name)
    weights = filled(trained)
    taps = torch.tensor(sizes.get("resample_filter", [1, 1]), dtype=torch.float32)
    for key, shape in buffers.items():
        frequencies = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64).square() / 7).float()
        weights[key] = frequencies if key.endswith("freqs") else (taps.outer(taps) / taps.sum() ** 2)[None, None]
    change(weights)
    built = {"img_resolution": 8, "in_channels": 3, "out_channels": outputs, **sizes, **arguments}
    net = Persistent(network, _init_args=(), _init_kwargs=built, **tree(weights, set(trained)))
    whole = Persistent(kind, **state, _parameters={}, _buffers={}, _modules={"model": net})
    return {"ema": whole, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {"path": "images.zip"}}


def write_snapshot(path, name="edm_ddpmpp", monkeypatch=None, **how):
    """Write a snapshot of EDM."""
    persistence(monkeypatch)
    path.write_bytes(pickle.dumps(snapshot(name, **how), protocol=4))
    return path


class EasyDict(dict):
    """What EDM2 pickles its snapshots as."""


EDM2 = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 16}


def edm2_snapshot(change=lambda weights: None, encoder=None, **arguments):
    """What a snapshot of EDM2 holds, its tensors in float16."""
    trained, buffers = layout("edm2")
    weights = filled(trained)
    for key, shape in buffers.items():
        weights[key] = (6 * torch.sin(torch.arange(math.prod(shape), dtype=torch.float64).square() / 7)).float()
    change(weights)
    built = {"img_resolution": 8, "img_channels": 3, "label_dim": 3, **EDM2, **arguments}
    state = tree({name: value.half() for name, value in weights.items()}, set(trained))
    state["_modules"]["unet"] = Persistent("UNet", _init_kwargs=built, **state["_modules"]["unet"].meta["state"])
    whole = Persistent("Precond", sigma_data=0.5, use_fp16=True, **state)
    return EasyDict(ema=whole, encoder=encoder, loss_fn=None, dataset_kwargs=EasyDict(path="images.zip"))


def write_edm2_snapshot(path, monkeypatch, **how):
    """Write a snapshot of EDM2."""
    persistence(monkeypatch)
    monkeypatch.setattr(EasyDict, "__module__", "dnnlib.util")
    module = ModuleType("dnnlib.util")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "dnnlib", ModuleType("dnnlib"))
    monkeypatch.setitem(sys.modules, "dnnlib.util", module)
    path.write_bytes(pickle.dumps(edm2_snapshot(**how), protocol=4))
    return path


def write_transformer(path, name="dit", training=False, change=lambda weights: None):
    """Write weights of DiT, SiT (the same layout), U-ViT, LightningDiT, JiT or DDT, or of DiCo, U-DiT, DiC or FCDM,
    alone or as their training programs do."""
    import argparse

    from denoisezoo.nn.attention import axial_angles
    from denoisezoo.nn.transformer import sincos_positions

    weights = filled(layout(name)[0])
    if name in ("dit", "lightningdit", "jit"):
        weights["pos_embed"] = sincos_positions(32, 2, 2)[None]
    if name == "lightningdit":
        angles = axial_angles(16, 2, 2)[:, 0].repeat_interleave(2, dim=1).float()
        weights |= {"feat_rope.freqs_cos": angles.cos(), "feat_rope.freqs_sin": angles.sin()}
    change(weights)
    raw = {key: value + 0.25 for key, value in weights.items()}
    whole = {"model": raw, "ema": weights, "opt": {"state": {}}, "args": argparse.Namespace(lr=1e-4, model="DiT")}
    if name == "jit":
        weights = {f"net.{key}": value for key, value in weights.items()}
        raw = {f"net.{key}": value for key, value in raw.items()}
        second = {key: value - 0.25 for key, value in weights.items()}
        whole = {"model": raw, "model_ema1": weights, "model_ema2": second, "args": whole["args"], "epoch": 3}
    elif name == "ddt":
        state = {f"denoiser.{key}": value for key, value in raw.items()}
        state |= {f"ema_denoiser.{key}": value for key, value in weights.items()}
        whole = {"state_dict": {**state, "diffusion_trainer.proj.0.weight": torch.zeros(3)}, "epoch": 3}
    torch.save(whole if training else weights, path)
    return path


def of_latents(weights):
    """Make a DiT of `write_transformer` one of latents of four channels, with a learned variance."""
    weights["x_embedder.proj.weight"] = torch.sin(torch.arange(32.0 * 4 * 16)).reshape(32, 4, 4, 4) / 8
    weights["final_layer.linear.weight"] = torch.sin(torch.arange(16.0 * 8 * 32)).reshape(16 * 8, 32) / 8
    weights["final_layer.linear.bias"] = torch.zeros(16 * 8)
