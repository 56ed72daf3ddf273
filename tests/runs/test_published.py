"""Published weights: what the file holds, that it works as a run, and that damage is noticed."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from denoisezoo.archs import FORMAT, get_variant
from denoisezoo.archs.variants import replace_config
from denoisezoo.cli import main
from denoisezoo.errors import UserError
from denoisezoo.runs.published import KEY, digest, publish
from denoisezoo.runs.run import load_run
from denoisezoo.train.checkpoint import check_format
from denoisezoo.train.fit import train


@pytest.fixture
def published(arguments, tmp_path):
    """A published run."""
    train(arguments())
    path = tmp_path / "out" / "x.safetensors"
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(path)]) == 0
    return path


def test_the_header_holds_card_and_configuration(published, tmp_path):
    with safe_open(str(published), framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
    run = load_run(tmp_path / "run")
    assert header["recipe"] == json.loads(json.dumps(run.config))
    facts = {"images_seen": 128, "train_steps": 4, "training_seed": 0, "weights": "ema", "dataset": "digits"}
    assert facts.items() <= header["card"].items()
    assert header["card"]["params"] == sum(p.numel() for p in run.denoiser.backbone.parameters())
    assert len(header["card"]["dataset_sha256"]) == 64


def test_it_is_a_run_wherever_one_is_asked_for(published, tmp_path, capsys):
    ours, theirs = load_run(published), load_run(tmp_path / "run")
    assert ours.facts == theirs.facts
    for name, value in theirs.denoiser.state_dict().items():
        assert torch.equal(ours.denoiser.state_dict()[name], value)
    for run, out in ((published, "a"), (tmp_path / "run", "b")):
        assert main(["sample", str(run), "--num", "2", "--steps", "2", "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / "a" / "grid.png").read_bytes() == (tmp_path / "b" / "grid.png").read_bytes()
    assert main(["profile", str(published), "--counts-only"]) == 0


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a\nb", "", None, 3.5, "x" * 200])
def test_no_header_says_where_files_go(name, published, tmp_path):
    """Exports are called by the name that a card gives, and a card may be anybody's."""
    with safe_open(str(published), framework="pt") as file:
        header, tensors = json.loads(file.metadata()[KEY]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header["card"]["name"] = name
    header.pop("sha256")
    hostile = tmp_path / "hostile" / "x.safetensors"
    hostile.parent.mkdir()
    save_file(tensors, hostile, metadata={KEY: json.dumps(header | {"sha256": digest(header, tensors)})})
    run = load_run(hostile)
    assert run.name == (load_run(tmp_path / "run").name)
    before = set(tmp_path.rglob("*"))
    assert main(["export", str(hostile), "--out", str(tmp_path / "o")]) == 0
    assert all(path.is_relative_to(tmp_path / "o") for path in set(tmp_path.rglob("*")) - before)


def test_weights_that_are_not_finite_are_not_published(published, tmp_path):
    run, path = load_run(tmp_path / "run"), tmp_path / "nan.safetensors"
    name, weight = next(iter(run.denoiser.named_parameters()))
    weight.data.flatten()[0] = float("nan")
    with pytest.raises(UserError, match=f"1 of the .* tensors of .* hold NaN or infinity, first denoiser.{name}"):
        publish(run, path)
    assert not path.exists()


def test_raw_weights_are_others_and_say_so(published, tmp_path):
    raw = tmp_path / "raw.safetensors"
    assert main(["export", str(tmp_path / "run"), "--weights", "raw", "--out", str(raw)]) == 0
    assert load_run(raw, "raw").weights == "raw"
    with pytest.raises(UserError, match="`weights=raw`"):
        load_run(raw)


def test_the_evaluation_goes_with_it(published, tmp_path):
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "--steps", "2", "--num", "40"]) == 0
    assert main(["export", run, "--out", str(published)]) == 0
    with safe_open(str(published), framework="pt") as file:
        result = json.loads(file.metadata()[KEY])["card"]["result"]
    assert result["fd_pixels"] == json.loads((tmp_path / "run" / "evaluation" / "result.json").read_text())["fd_pixels"]


def test_every_flipped_bit_is_noticed(published):
    whole = published.read_bytes()
    positions = [*random.Random(0).sample(range(len(whole)), 40), *random.Random(1).sample(range(1000), 10)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        published.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|no file of denoisezoo"):
            load_run(published)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(published, share):
    whole = published.read_bytes()
    published.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="damaged"):
        load_run(published)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="no file of denoisezoo"):
        load_run(path)
    torch.save({"a": 1}, path)
    with pytest.raises(UserError, match="damaged or no safetensors"):
        load_run(path)


NARROW = {  # of the small U-Nets with 32 norm groups, or augmentation labels
    "--model.denoiser": "ddpm_cifar10",
    "--model.network": "{resolution: 16, channels: 32, multipliers: [1], blocks: 1, in_channels: 1, out_channels: 1}",
}


def before_formats(folder, path):
    """The newest checkpoint of a run, or a published file, as they were written before formats were noted."""
    checkpoint = (folder / "checkpoints" / "last.ckpt").resolve()
    found = torch.load(checkpoint, weights_only=True)
    assert found["denoisezoo"].pop("format") == FORMAT
    torch.save(found, checkpoint)
    checkpoint.with_name(checkpoint.name + ".sha256").unlink()
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert header.pop("format") == FORMAT
    del header["sha256"]
    save_file(tensors, path, metadata={KEY: json.dumps(header | {"sha256": digest(header, tensors)})})


@pytest.fixture
def old(arguments, tmp_path):
    """Makes a run, and its published file, of before formats."""

    def make(*words):
        train(arguments(*words))
        path = tmp_path / "x.safetensors"
        assert main(["export", str(tmp_path / "run"), "--out", str(path)]) == 0
        before_formats(tmp_path / "run", path)
        return path

    return make


def test_weights_of_networks_that_have_changed_are_refused(arguments, old, tmp_path, capsys):
    """A checkpoint of 32 channels in 8 groups would load without an error into norms of 32 groups, and be wrong."""
    words = [word for pair in NARROW.items() for word in pair]
    path = old(*words)
    for run in (path, tmp_path / "run"):
        with pytest.raises(UserError, match="another network: norms of 32 channels had 8 groups and now have 32"):
            load_run(run)
    capsys.readouterr()
    assert main(["train", *arguments(*words, "--trainer.max_steps", 8)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_of_networks_that_have_not_changed_are_taken(arguments, old, tmp_path):
    path = old()
    assert load_run(path).facts == load_run(tmp_path / "run").facts
    assert train(arguments("--trainer.max_steps", 8)).steps == 8


@pytest.mark.parametrize(
    ("name", "sizes", "change"),
    [
        ("ddpm_digits", {}, None),
        ("ddpm_cifar10", {}, None),
        ("ddpm_pair_160", {}, "norms of 96 channels had 24 groups and now have 32"),
        ("ddpm_pair_160", {"norm_groups": None}, None),
        ("multiscale_128", {}, "norms of 64 channels had 16 groups and now have 32"),
        ("multiscale_128_deep", {}, None),
        ("slim_ddpm_cifar10", {"channels": 64}, "norms of 64 channels had 16 groups and now have 32"),
        ("ncsnpp_cifar10", {}, None),
        ("adm_tiny", {}, "augmentation labels entered after"),
        ("adm_tiny", {"augment_dim": 0}, None),
    ],
)
def test_what_has_changed_since_the_first_format(name, sizes, change):
    config = replace_config(get_variant(name).config, sizes, name)
    assert config.changed_since(FORMAT) is None
    found = config.changed_since(1)
    assert found == change or found.startswith(change)


def test_a_later_format_is_refused():
    with pytest.raises(UserError, match=r"^x is of format 99, and . is the latest known; update denoisezoo"):
        check_format("x", 99, "ddpm_tiny", get_variant("ddpm_tiny").config)


@pytest.mark.parametrize("out", ["weights.bin", "folder.safetensors"])
def test_wrong_names_are_refused(arguments, tmp_path, out, capsys):
    train(arguments("--trainer.max_steps", 1))
    (tmp_path / "folder.safetensors").mkdir()
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / out)]) == 2
    assert "--out" in capsys.readouterr().err
