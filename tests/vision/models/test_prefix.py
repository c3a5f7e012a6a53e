"""Checkpoints with a class token and registers, for models with fewer of them."""

import pytest
import torch
from small_vits import PREFIX, images, make
from torch import Tensor

from posattn.vision.models.checkpoint import checkpoint_filter_fn
from posattn.vision.models.freeze import freeze_attention

FEWER = {
    "none": ({}, []),
    "registers": ({"class_token": False, "reg_tokens": 2}, [1, 2]),
    "class": ({"class_token": True}, [0]),
}
SIZES = [(4, 8), (6, 10), (8, 8)]  # 2x4 and 3x5 patches, with a class token as many as square grids have


def without_tokens(maps: Tensor, tokens: list[int]) -> Tensor:
    """Attention among ``tokens`` alone: a softmax over fewer keys is the one over all, renormalised."""
    left = maps[..., tokens, :][..., tokens]
    return left / left.sum(-1, keepdim=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fewer", FEWER)
def test_prefix_tokens_that_the_model_lacks_are_dropped(
    options: dict[str, object], fewer: str, size: tuple[int, int]
) -> None:
    """Every token kept attends as before to the others kept; embeddings of tokens are theirs."""
    lacking, kept = FEWER[fewer]
    source = make(**options, **{**PREFIX, "img_size": size, "global_pool": "avg"})
    torch.nn.init.normal_(source.pos_embed)
    model = make(**options, **lacking, img_size=size)
    model.load_state_dict(checkpoint_filter_fn(source.state_dict(), model))
    tokens = [*kept, *range(3, source.pos_embed.shape[1])]
    expected = without_tokens(source.attention_maps(), tokens)
    torch.testing.assert_close(model.attention_maps(), expected)
    assert torch.equal(model.pos_embed, source.pos_embed[:, tokens])


def test_dropped_tokens_and_another_grid(options: dict[str, object]) -> None:
    """The same as the model without them at the checkpoint's grid, then resized."""
    source = make(**options, class_token=True)
    direct, small = make(**options, img_size=(12, 16)), make(**options)
    direct.load_state_dict(checkpoint_filter_fn(source.state_dict(), direct))
    small.load_state_dict(checkpoint_filter_fn(source.state_dict(), small))
    small.set_input_size(img_size=(12, 16))
    assert torch.equal(direct(images(size=(12, 16))), small(images(size=(12, 16))))


@pytest.mark.parametrize("keep", [None, 2])  # of 17 entries, gathered
def test_frozen_maps_without_dropped_tokens(keep: int | None) -> None:
    source = freeze_attention(make(class_token=True, scores="table", score_diagonal=4.0), keep)
    model = make(scores="frozen")
    model.load_state_dict(checkpoint_filter_fn(source.state_dict(), model))
    expected = without_tokens(source.attention_maps(), list(range(1, 17)))
    torch.testing.assert_close(model.attention_maps(), expected)


@pytest.mark.parametrize("held", [{}, {"class_token": True, "reg_tokens": 1}])
def test_prefix_tokens_that_the_checkpoint_lacks_are_named(
    options: dict[str, object], held: dict[str, object]
) -> None:
    source, model = make(**options, **held), make(**options, **PREFIX)
    with pytest.raises(
        ValueError, match=r"the model has \d prefix tokens in (cls|reg)_token, the checkpoint [01]:"
    ):
        checkpoint_filter_fn(source.state_dict(), model)
