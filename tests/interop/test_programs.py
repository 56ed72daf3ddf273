"""Exported programs, ONNX and torch.export's: they do what the network does, at batch sizes that were not traced."""

import json

import pytest
import torch
from torch import nn

import denoisezoo as dz
from denoisezoo.archs import Backbone
from denoisezoo.archs.backbone import BackboneConfig
from denoisezoo.diffusion import NetworkDenoiser
from denoisezoo.errors import UserError
from denoisezoo.interop.exported_program import ABOUT
from denoisezoo.interop.onnx_file import OPSET, open_session
from denoisezoo.interop.programs import differences, frozen_copy, programs, trace
from denoisezoo.interop.writer import Subject
from denoisezoo.nn.given import Given
from denoisezoo.plans import Plan


def lively(name, process, **sizes):
    """A denoiser whose every layer counts."""
    made = dz.create_denoiser(name, process, **sizes)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in made.backbone.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return made.eval()


def test_onnx_of_a_denoiser_is_the_denoiser_for_any_batch_and_any_tokens(tmp_path):
    """Label, conditioning image and tokens; coefficients of a cosine, which cancel in float32."""
    onnx = pytest.importorskip("onnx", reason="the test extra brings onnx")
    ours = lively("dit_tiny", "vp_cosine", depth=1)
    done = dz.export(ours, tmp_path, format="onnx", license="apache-2.0")
    (file,) = done.files
    assert file.difference < 1e-5
    model = onnx.load(tmp_path / file.path)
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["denoisezoo"])
    assert [entry.version for entry in model.opset_import if not entry.domain] == [about["opset"]] == [OPSET]
    names = [name for name, *_ in about["inputs"]]
    assert names == [value.name for value in model.graph.input] == ["u_t", "t", "label", "image", "tokens"]
    assert "time of VPCosine() from 0.9946 (noise) to 0.001" in about["inputs"][1][3].replace(",", "")
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert sizes["u_t"] == ["batch", 3, 8, 8]
    assert sizes["tokens"] == ["batch", "tokens", 5]
    given = Given(torch.tensor([-1, 2, 0, 1]), torch.randn(4, 1, 8, 8), torch.randn(4, 7, 5))
    u_t, t = torch.randn(4, 3, 8, 8), torch.tensor([0.001, 0.3, 0.9, 0.9946])
    inputs = dict(zip(names, (x.numpy() for x in (u_t, t, *given[:3])), strict=True))
    (found,) = open_session(tmp_path / file.path).run(None, inputs)
    with torch.no_grad():
        expected = ours(u_t, t.double(), given).u_0
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: denoisezoo\n")
    assert str(file.path) in card
    assert "| `tokens` | (batch, tokens, 5) | float32 |" in card


def test_onnx_of_a_network_is_the_network(tmp_path):
    pytest.importorskip("onnxruntime", reason="the test extra brings onnxruntime")
    ours = lively("edm2_tiny", "edm", multipliers=(1,), blocks=1)
    (file,) = dz.export(ours, tmp_path, format="onnx", part="network").files
    assert file.difference < 1e-5


def test_onnx_of_a_process_whose_coefficients_are_matrices(tmp_path):
    """D of Langevin diffusion: 2x2 blocks, their inverses, and a table of angles, in float64 inside."""
    pytest.importorskip("onnxruntime", reason="the test extra brings onnxruntime")
    sizes = {"in_channels": 2, "out_channels": 2, "depths": (1,), "multipliers": (1,), "channels": 8}
    ours = lively("dico_tiny", "cld", **sizes, cond_channels=0, augment_dim=0, num_classes=0)
    (file,) = dz.export(ours, tmp_path, format="onnx").files
    assert file.difference < 1e-5
    u_t, t = torch.randn(4, 2, 8, 8), torch.tensor([1e-3, 0.02, 0.4, 1.0])
    (found,) = open_session(tmp_path / file.path).run(None, {"u_t": u_t.numpy(), "t": t.numpy()})
    with torch.no_grad():
        expected = ours(u_t, t.double()).u_0
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_a_program_for_each_effort_of_a_plan(tmp_path):
    """At half the width the file is smaller, and it is the network at half the width."""
    ours = lively("slim_missing_u_tiny", "edm")
    done = dz.export(ours, tmp_path, format="pt2", part="network", plan=Plan((0.5, 1.0, 0.5), (-1.0, 1.0)))
    assert [(file.effort, str(file.path)) for file in done.files] == [
        (0.5, "Slim_network_effort0.5.pt2"),
        (1.0, "Slim_network_effort1.pt2"),
    ]
    small, large = (row["bytes"] for row in done.rows())
    assert small < large
    assert json.loads((tmp_path / "plan.json").read_text())["edges"] == [-1.0, 1.0]
    x, c_noise, image = torch.randn(5, 3, 8, 8), torch.linspace(-1, 1, 5), torch.randn(5, 1, 8, 8)
    label = torch.tensor([0, 1, 2, -1, 0])
    for file in done.files:
        program = torch.export.load(tmp_path / file.path).module()
        with torch.no_grad():
            expected = ours.backbone(x, c_noise, Given(label, image), file.effort)
        torch.testing.assert_close(program(x, c_noise, label, image), expected, rtol=1e-5, atol=1e-6)


def test_a_program_for_each_stage_with_its_own_weights_alone(tmp_path):
    """A trace of the whole would hold the network of one size, and the weights of all."""
    sizes = {"base": ("dico_tiny",), "cond_channels": 0, "augment_dim": 0, "num_classes": 0}
    ours = lively("multiscale_tiny", "multiscale", **sizes)
    done = dz.export(ours, tmp_path, format="pt2")
    assert [(file.side, file.times) for file in done.files] == [(4, (1.0, 0.5)), (8, (0.5, 1e-3))]
    stages = ours.backbone.stages
    for file, stage in zip(done.files, (stages[1], stages[0]), strict=True):
        extra = {ABOUT: ""}
        program = torch.export.load(tmp_path / file.path, extra_files=extra)
        assert json.loads(extra[ABOUT])["times"] == list(file.times)
        assert sum(weight.numel() for weight in program.parameters()) == sum(w.numel() for w in stage.parameters())
        u_t = torch.randn(1, 3, file.side, file.side)
        t = torch.tensor([sum(file.times) / 2])
        with torch.no_grad():
            torch.testing.assert_close(program.module()(u_t, t), ours(u_t, t.double()).u_0, rtol=1e-5, atol=1e-6)


def test_an_input_that_is_never_read_has_the_batch_size_too():
    """The released network is blind to c_noise, and its exporter fixed the batch."""
    ours = lively("missing_u_tiny", "vp_discrete", cond_channels=0)
    (program,) = programs(Subject(name="x", denoiser=ours, about={}, part="network"))
    traced = trace(program, "it").module()
    assert differences(program, lambda inputs: traced(*inputs)) < 1e-6


class Mean(Backbone):
    """A network with something in it that a trace does not keep."""

    def __init__(self, seen):
        super().__init__(BackboneConfig(in_channels=1, out_channels=1, resolution=4))
        self.seen, self.layer = seen, nn.Conv2d(1, 1, 1)

    def forward(self, x, c_noise, given=Given(), effort=None):  # noqa: B008
        y = self.layer(x)
        if self.seen == "constant":
            return y + torch.zeros(int(x.shape[0]), 1, 1, 1)
        if self.seen == "items":
            return y * float(c_noise.mean())
        return y if torch.compiler.is_compiling() else 2 * y


REFUSED = {
    "constant": r"cannot be traced \(its code takes the batch size for a constant\); ",
    "items": r"cannot be traced \(.*\); ",
    "other": r"outputs of Mean_network.pt2 differ by .* from the network's",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_program_that_is_not_the_network_is_not_kept(kind, tmp_path):
    ours = NetworkDenoiser(Mean(kind), dz.diffusion.EDM(), dz.diffusion.EDMPreconditioning())
    with pytest.raises(UserError, match=REFUSED[kind]) as caught:
        dz.export(ours, tmp_path / "new" / "out", format="pt2", part="network")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_adaptive_solver_is_refused_in_its_own_words(tmp_path):
    ours = lively("missing_u_tiny", "edm", solver="dopri5", cond_channels=0)
    with pytest.raises(UserError, match=r"solver dopri5.*cannot be exported; .*with_solver"):
        dz.export(ours, tmp_path, format="pt2")


def test_a_difference_is_found_at_another_batch_size():
    ours = lively("dico_digits", "edm")
    (program,) = programs(Subject(name="x", denoiser=ours, about={}, part="network"))
    assert differences(program, lambda inputs: program.module(*inputs)) == 0.0
    assert differences(program, lambda inputs: program.module(*inputs) + 1e-3) == pytest.approx(1e-3, rel=1e-2)
    assert differences(program, lambda inputs: program.module(*(x[:1] for x in inputs))) == float("inf")
    assert differences(program, lambda inputs: program.module(*inputs) * float("nan")) == float("inf")


def test_exporting_leaves_the_denoiser_as_it_was():
    ours = lively("dico_digits", "edm").train().double()
    weight = next(ours.backbone.parameters())
    copied = frozen_copy(ours)
    assert weight.requires_grad
    assert ours.training
    assert weight.dtype is torch.float64
    assert not copied.training
    assert next(copied.backbone.parameters()).dtype is torch.float32
    again = frozen_copy(copied)
    assert next(again.backbone.parameters()).data_ptr() == next(copied.backbone.parameters()).data_ptr()
