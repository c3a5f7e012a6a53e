"""P Pᵀ of positional encodings, as the page of `images` shows it."""

import timm
import torch

import posattn.vision.models.vision_transformer_posattn  # noqa: F401  (registers its models)
from posattn.recipes.images.positions import gram_gallery, positional_encodings, thresholded_gram

SIZE = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def test_the_gram_matrix_is_normalised_and_thresholded() -> None:
    gram = thresholded_gram(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.5, 1.0]]))
    assert gram.tolist() == [[1, -1, 0], [-1, 1, 0], [0, 0, 0]]  # 1.25 / 4 and 1 / 4 are below the threshold
    assert thresholded_gram(torch.zeros(2, 3)).tolist() == [[0, 0], [0, 0]]


def test_encodings_are_those_of_the_patches() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", **SIZE)
    vit.pos_embed.data = torch.arange(5.0)[None, :, None].expand(1, 5, 16).clone()  # the class token first
    encodings = positional_encodings(vit)
    assert encodings is not None
    assert encodings[:, 0].tolist() == [1, 2, 3, 4]
    ours = timm.create_model("vit_posattn_tiny_patch16_224", **SIZE)
    assert torch.equal(positional_encodings(ours), ours.pos_encodings.weight)


def test_models_without_encodings_are_left_out() -> None:
    vit, resnet = timm.create_model("vit_tiny_patch16_224", **SIZE), timm.create_model("resnet10t")
    grams, labels = gram_gallery({"ViT": vit, "ResNet": resnet}, {"ViT": vit, "ResNet": resnet})
    assert labels == ["ViT, initial", "ViT, trained"]
    assert [gram.shape for gram in grams] == [(4, 4), (4, 4)]
    assert torch.equal(grams[0], grams[1])
