"""Checkpoints as people have them load into timm's models and ours, and what does not belong is an error."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import posattn.vision.models.vision_transformer_posattn
from posattn.vision.models.state_dicts import load_checkpoint, read_checkpoint, unwrap_checkpoint

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}


def make(name: str = "vit_tiny_patch16_224", seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, **{**SMALL, "num_classes": 5, **options}).eval()


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


WRAPPED: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], list[str]]] = {
    "bare": (lambda s: s, []),
    "state_dict": (lambda s: {"epoch": 3, "state_dict": s}, ["state_dict"]),
    "model": (lambda s: {"model": s, "optimizer": {}}, ["model"]),
    "averaged first": (lambda s: {"model": {}, "model_ema": s}, ["model_ema"]),
    "teacher": (lambda s: {"student": {}, "teacher": prefixed(s, "backbone.")}, ["teacher", "backbone."]),
    "DDP": (lambda s: {"model": prefixed(s, "module.")}, ["model", "module."]),
    "compiled DDP": (lambda s: prefixed(s, "_orig_mod.module."), ["_orig_mod.", "module."]),
    "lightning": (
        lambda s: {"state_dict": {**prefixed(s, "model."), "loss.w": torch.ones(1)}},
        ["state_dict", "model."],
    ),
    "encoder": (lambda s: {**prefixed(s, "encoder."), "decoder.w": torch.ones(3)}, ["encoder."]),
    "deep": (
        lambda s: {"state_dict": prefixed(s, "module.model.backbone.")},
        ["state_dict", "module.", "model.", "backbone."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_posattn_tiny_patch16_224"])
def test_wrapped_checkpoints_load(kind: str, name: str, tmp_path: Path) -> None:
    wrap, taken = WRAPPED[kind]
    source, target = make(name), make(name, seed=1)
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")
    state = read_checkpoint(tmp_path / "weights.pth")
    assert unwrap_checkpoint(state, set(target.state_dict()))[1] == taken
    notes = load_checkpoint(target, state)
    assert notes == ([f"taken off the checkpoint: {', '.join(taken)}"] if taken else [])
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    if "posattn" in name:
        filtered = posattn.vision.models.vision_transformer_posattn.checkpoint_filter_fn(state, target)
        target.load_state_dict(filtered)


def test_other_sizes_channels_and_heads(tmp_path: Path) -> None:
    source = make(num_classes=7)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    state = read_checkpoint(tmp_path / "weights.safetensors")
    target = make(img_size=64, in_chans=1, seed=1)
    assert load_checkpoint(target, state) == [
        "resampled to the size of the model: patch_embed.proj.weight (24x3x8x8 to 24x1x8x8), "
        "pos_embed (1x17x24 to 1x65x24)",
        "left at random: head",
    ]
    expected = timm.layers.resample_abs_pos_embed(source.pos_embed, [8, 8], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(target.pos_embed, expected)
    summed = source.patch_embed.proj.weight.sum(1, keepdim=True)
    torch.testing.assert_close(target.patch_embed.proj.weight, summed)
    assert load_checkpoint(make(num_classes=0), state) == []


def test_what_does_not_belong_is_named(tmp_path: Path) -> None:
    resnet = timm.create_model("test_resnet").state_dict()
    for model in (make(), make("vit_posattn_tiny_patch16_224")):
        with pytest.raises(
            ValueError, match=r"nothing of the checkpoint belongs to this VisionTransformer.*conv1"
        ):
            load_checkpoint(model, resnet)
    with pytest.raises(ValueError, match="nothing of the checkpoint belongs"):
        posattn.vision.models.vision_transformer_posattn.checkpoint_filter_fn(
            resnet, make("vit_posattn_tiny_patch16_224")
        )
    shallow = make().state_dict()
    with pytest.raises(
        ValueError, match=r"lacks 12 weights of the model: blocks\.1\.norm1\.weight \(none, the model's 24\)"
    ):
        load_checkpoint(make(depth=2), shallow)
    with pytest.raises(
        ValueError, match=r"no place for 12 weights of the checkpoint: blocks\.1\.norm1\.weight"
    ):
        load_checkpoint(make(), make(depth=2).state_dict())
    with pytest.raises(FileNotFoundError, match="no checkpoint /nowhere"):
        read_checkpoint(Path("/nowhere"))
    with pytest.raises(ValueError, match="is a folder; a checkpoint is a file"):
        read_checkpoint(tmp_path)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.pth is no checkpoint"):
        read_checkpoint(tmp_path / "broken.pth")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"qk_norm": True}, "4 weights of the checkpoint: blocks.0.attn.q_norm.weight, "),
        ({"init_values": 0.1}, "2 weights of the checkpoint: blocks.0.ls1.gamma, blocks.0.ls2.gamma"),
    ],
)
def test_weights_of_the_backbone_that_the_model_lacks_are_refused(options: dict[str, Any], said: str) -> None:
    target, state = make(seed=1), make(**options).state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=f"the model has no place for {re.escape(said)}"):
        load_checkpoint(target, state)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_what_the_models_own_filter_fails_on_is_refused() -> None:
    state = make(class_token=False, global_pool="avg").state_dict()
    with pytest.raises(
        ValueError, match=r"^the checkpoint does not fit VisionTransformer: shape .* is invalid"
    ):
        load_checkpoint(make(), state)


def test_what_the_model_has_no_part_for_is_noted_by_name() -> None:
    decoder = {f"decoder.{i}.w": torch.ones(1) for i in range(4)}
    noted = "not used: 4 weights of the checkpoint: decoder.0.w, decoder.1.w, decoder.2.w …"
    assert load_checkpoint(make(), make(num_classes=7).state_dict() | decoder) == [
        "left at random: head",
        noted,
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"weights\.pth is empty$"),
        (b"no weights\n" * 100, r"weights\.pth is no checkpoint of weights that can be read: \w+ "),
        (b"PK\3\4 cut short", r"weights\.pth is no checkpoint of weights that can be read: \w+ "),
    ],
)
def test_a_damaged_checkpoint_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < len(str(path)) + 300
    assert "\n" not in str(caught.value)


def test_checkpoints_of_timms_own_training_are_read(tmp_path: Path) -> None:
    source, path = make(), tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": source.state_dict(), "args": argparse.Namespace(lr=1.0)}, path)
    assert load_checkpoint(make(seed=1), read_checkpoint(path)) == ["taken off the checkpoint: state_dict"]


def test_objects_in_a_checkpoint_are_named(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2), "args": argparse.Namespace()}, tmp_path / "whole.pth")
    with pytest.raises(
        ValueError, match=r"it holds objects of torch\.nn\.modules\.linear\.Linear: save the weights"
    ):
        read_checkpoint(tmp_path / "whole.pth")


def test_weights_of_another_size_are_noted() -> None:
    state = make(patch_size=4).state_dict()
    assert load_checkpoint(make(seed=1), state) == [
        "resampled to the size of the model: pos_embed (1x65x24 to 1x17x24), "
        "patch_embed.proj.weight (24x3x4x4 to 24x3x8x8)"
    ]
