"""Models that are not what their config says: with another classifier they are saved, otherwise refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers
from small_vits import TRANSFORMERS_SIZE
from torch import nn

import posattn
from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.convert.differences import difference
from posattn.vision.convert.maps import to_positional
from posattn.vision.convert.saving import check_savable

SIZE = {**TRANSFORMERS_SIZE, "num_labels": 10}
of_timm = partial(
    timm.create_model,
    "deit_tiny_patch16_224",
    img_size=16,
    patch_size=4,
    embed_dim=24,
    depth=2,
    num_classes=10,
)
distilled = partial(
    timm.create_model,
    "deit_tiny_distilled_patch16_224",
    img_size=16,
    patch_size=4,
    embed_dim=24,
    depth=2,
)
of_torchvision = partial(torchvision.models.VisionTransformer, 16, 4, 2, 3, 24, 32, num_classes=10)
Make = Callable[..., nn.Module]
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
HEADS = {0: {0: "table", 1: "relative"}}


def of_transformers(kind: str = "ViT", head: str = "ForImageClassification") -> nn.Module:
    return getattr(transformers, kind + head)(getattr(transformers, f"{kind}Config")(**SIZE))


def shallow() -> nn.Module:
    """A model that has lost its last block."""
    model = of_timm()
    model.blocks = model.blocks[:1]
    return model


def replaced(make: Make, **parts: nn.Module) -> nn.Module:
    """A model with other modules, by their paths with ``__`` for a dot."""
    torch.manual_seed(0)
    model = make().eval()
    for path, part in parts.items():
        owner, _, name = path.rpartition("__")
        setattr(model.get_submodule(owner.replace("__", ".")), name, part)
    return model


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model.eval()(IMAGES)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (of_timm, {"head": nn.Linear(24, 4)}),
        (of_timm, {"head": nn.Identity()}),
        (distilled, {"head": nn.Linear(24, 4), "head_dist": nn.Linear(24, 4)}),
        (of_torchvision, {"heads__head": nn.Linear(24, 4)}),
        (partial(of_torchvision, representation_size=8), {"heads__head": nn.Linear(8, 4)}),
        (partial(of_torchvision, representation_size=8), {"heads": nn.Linear(24, 4)}),
        (of_torchvision, {"heads": nn.Identity()}),
        (of_transformers, {"classifier": nn.Linear(24, 4)}),
        (of_transformers, {"classifier": nn.Identity()}),
        (partial(of_transformers, "Dinov2"), {"classifier": nn.Linear(48, 4)}),
        (
            partial(of_transformers, "DeiT", "ForImageClassificationWithTeacher"),
            {"cls_classifier": nn.Linear(24, 4), "distillation_classifier": nn.Linear(24, 4)},
        ),
    ],
)
def test_another_classifier_is_saved(make: Make, parts: dict[str, nn.Module], tmp_path: Path) -> None:
    vit = replaced(make, **parts)
    check_savable(vit)
    model = to_positional(vit, IMAGES, heads=HEADS)
    draws = torch.get_rng_state()
    posattn.save(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), draws)
    loaded = posattn.load(tmp_path)
    assert torch.equal(run(loaded), run(model))
    posattn.save(loaded, tmp_path / "again")
    assert torch.equal(run(posattn.load(tmp_path / "again")), run(model))
    assert run(vit).shape[1] in (4, 24, 48)


@pytest.mark.parametrize(
    ("make", "parts", "message"),
    [
        (
            of_timm,
            {"head": nn.Sequential(nn.Dropout(0.1), nn.Linear(24, 10))},
            r"head is Sequential\(\), built again Linear\(in_features=24, out_features=10",
        ),
        (
            of_timm,
            {"head": nn.Linear(24, 4, bias=False)},
            r"head is Linear\(.* bias=False\), built again Lin",
        ),
        (
            of_timm,
            {"norm": nn.LayerNorm(24, eps=0.1)},
            r"norm is LayerNorm.*eps=0.1.*, built again .*eps=1e-06",
        ),
        (of_timm, {"blocks__1__mlp__act": nn.ReLU()}, r"blocks.1.mlp.act is ReLU\(\), built again GELU"),
        (shallow, {}, r"blocks.1 is missing, built again Block"),
        (
            of_timm,
            {"pos_embed": nn.Parameter(torch.zeros(1, 1, 24))},
            r"pos_embed is \(1, 1, 24\), built .* 17,",
        ),
        (of_torchvision, {"heads": nn.Sequential()}, "heads.head is missing, built again Linear"),
        (
            of_transformers,
            {"classifier": nn.Sequential(nn.Linear(24, 4))},
            r"classifier is Sequential\(\), built",
        ),
    ],
)
def test_what_cannot_be_built_again(make: Make, parts: dict, message: str, tmp_path: Path) -> None:
    """It is refused before the conversion where one asks, and before anything is written."""
    vit = replaced(make, **parts)
    with pytest.raises(ValueError, match=f"cannot be built again from its config: ({message})"):
        check_savable(vit)
    model = replaced(lambda: to_positional(make().eval(), IMAGES, heads=HEADS), **parts)
    with pytest.raises(ValueError, match=f"cannot be built again from its config: ({message})"):
        posattn.save(model, tmp_path / "folder")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("make", [of_timm, of_torchvision, of_transformers])
def test_pruned_maps_are_built_again(make: Make, tmp_path: Path) -> None:
    """Those that are gathered as well, as dense ones."""
    model = posattn.freeze_attention(to_positional(make().eval(), IMAGES), keep=1)
    posattn.save(model, tmp_path)
    torch.testing.assert_close(run(posattn.load(tmp_path)), run(model))


@pytest.mark.parametrize("keep", [None, 1])
def test_maps_handed_out_are_whole_and_a_copy(keep: int | None) -> None:
    """Also where a row's largest entries are gathered."""
    model = posattn.freeze_attention(to_positional(of_timm().eval(), IMAGES, heads=HEADS), keep=keep)
    before, (attn, *_) = run(model), [m for m in model.modules() if isinstance(m, ConvertedAttention)]
    maps = attn.attention_maps()
    assert maps.shape[-1] == maps.shape[-2] == 17
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    maps.zero_()
    assert torch.equal(run(model), before)


def test_another_pooling_is_saved(tmp_path: Path) -> None:
    """Of a loaded model, whose last norm stays where it is."""
    posattn.save(to_positional(of_timm().eval(), IMAGES, heads=HEADS), tmp_path / "first")
    model = posattn.load(tmp_path / "first", global_pool="avg")
    posattn.save(model, tmp_path / "second")
    assert torch.equal(run(posattn.load(tmp_path / "second")), run(model))


def test_a_difference_is_of_what_acts_in_evaluation() -> None:
    one, two = (nn.Sequential(nn.Linear(2, 3), part) for part in (nn.Dropout(0.5), nn.Identity()))
    shapes = {name: tuple(value.shape) for name, value in one.state_dict().items()}
    assert difference(one, two, shapes) is None
    assert difference(one, two, {**shapes, "1.weight": (3,)}) == "1.weight is (3,), built again missing"
