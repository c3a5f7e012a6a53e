"""Token merging against its published rule, written out token by token (arXiv 2210.09461, section 3)."""

import math

import pytest
import timm
import torch

from posattn.bench.merging import attend, match, merge, merge_tokens

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}


def by_hand(
    tokens: torch.Tensor, keys: torch.Tensor, sizes: list[float], r: int, prefix: int
) -> list[tuple[torch.Tensor, float]]:
    """One image's tokens after a merge, with their sizes: the prefix, A's that stay in order, then B's."""
    n = len(tokens)
    even, odd = list(range(0, n, 2)), list(range(1, n, 2))
    edges = []
    for i in even:
        if i >= prefix:
            choices = [j for j in odd if j >= prefix]
            j = max(choices, key=lambda j: torch.cosine_similarity(keys[i], keys[j], dim=0).item())
            edges.append((torch.cosine_similarity(keys[i], keys[j], dim=0).item(), i, j))
    chosen = {i: j for _, i, j in sorted(edges, reverse=True)[: min(r, (n - prefix) // 2)]}
    stay = [*range(prefix), *(i for i in even if i >= prefix and i not in chosen)]
    found = [(tokens[i], sizes[i]) for i in stay]
    for j in [j for j in odd if j >= prefix]:
        group = [j, *(i for i, into in chosen.items() if into == j)]
        total = sum(sizes[i] for i in group)
        found.append((sum(sizes[i] * tokens[i] for i in group) / total, total))
    return found


@pytest.mark.parametrize(("n", "r", "prefix"), [(9, 2, 1), (10, 3, 1), (12, 5, 0), (13, 50, 3), (14, 4, 5)])
def test_a_merge(n: int, r: int, prefix: int) -> None:
    generator = torch.Generator().manual_seed(n)
    tokens, keys = torch.randn(4, n, 5, generator=generator), torch.randn(4, n, 3, generator=generator)
    sizes = torch.randint(1, 5, (4, n, 1), generator=generator).float()
    merged, total = merge(tokens, sizes, match(keys, r, prefix), prefix)
    for image in range(4):
        wanted = by_hand(tokens[image], keys[image], sizes[image, :, 0].tolist(), r, prefix)
        torch.testing.assert_close(merged[image], torch.stack([token for token, _ in wanted]))
        assert total[image, :, 0].tolist() == [size for _, size in wanted]


def test_a_token_of_size_three_is_attended_to_as_three_tokens() -> None:
    torch.manual_seed(0)
    attn = timm.create_model("vit_small_patch14_dinov2", **SMALL).eval().blocks[0].attn
    x = torch.randn(2, 5, 24)
    repeated = torch.cat([x, x[:, 4:], x[:, 4:]], 1)
    sizes = torch.tensor([1.0, 1, 1, 1, 3]).view(1, 5, 1).expand(2, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(attend(attn, x, sizes)[0], attn(repeated)[:, :5])


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_tiny_patch16_224"]
)
def test_a_model(name: str) -> None:
    torch.manual_seed(0)
    vit = timm.create_model(name, **SMALL).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(merge_tokens(vit, 0)(images), vit(images))
        model = merge_tokens(vit, 2)
        first = model.forward_features(images)
        assert first.shape[1] == 16 + vit.num_prefix_tokens - 3 * 2
        assert math.isclose(model.blocks[0].sizes.value.sum().item(), 2 * (16 + vit.num_prefix_tokens))
        # nothing is left of the call before
        torch.testing.assert_close(model.forward_features(images), first)


@pytest.mark.parametrize("registers", [0, 1, 4])
def test_every_block_merges_the_same_prefix_apart(registers: int) -> None:
    """Three blocks in float64, token by token."""
    torch.manual_seed(0)
    options = SMALL | {"reg_tokens": registers, "init_values": 0.5}
    vit = timm.create_model("vit_tiny_patch16_224", **options).eval().double()
    images, prefix = torch.randn(2, 3, 32, 32).double(), 1 + registers
    with torch.no_grad():
        found = merge_tokens(vit, 3).forward_features(images)
        for image, result in zip(images, found, strict=True):
            tokens = vit._pos_embed(vit.patch_embed(image[None]))
            sizes = [1.0] * tokens.shape[1]
            for block in vit.blocks:
                scales = torch.tensor(sizes).double().view(1, -1, 1)
                mixed, keys = attend(block.attn, block.norm1(tokens), scales)
                tokens = tokens + block.ls1(mixed)
                merged = by_hand(tokens[0], keys[0], sizes, 3, prefix)
                tokens, sizes = (
                    torch.stack([token for token, _ in merged])[None],
                    [size for _, size in merged],
                )
                tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
            torch.testing.assert_close(result, vit.norm(tokens)[0])


def test_equal_tokens_merge_without_loss() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL, pos_embed="none").eval()
    image = torch.randn(1, 3, 8, 8).repeat(1, 1, 4, 4)  # every patch the same
    with torch.no_grad():
        torch.testing.assert_close(merge_tokens(vit, 4)(image), vit(image), atol=1e-5, rtol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="global_pool='avg' is not supported"):
        merge_tokens(timm.create_model("vit_tiny_patch16_224", **SMALL, global_pool="avg"), 2)
    with pytest.raises(TypeError, match=r"blocks.0 \(EvaBlock\) is not supported"):
        merge_tokens(timm.create_model("eva02_tiny_patch14_224", **SMALL), 2)
    with pytest.raises(ValueError, match="r must be"):
        merge_tokens(timm.create_model("vit_tiny_patch16_224", **SMALL), -1)
