"""Token merging, written for this bench to compare converted models with, and the frontier of quality against speed.

Source: Bolya et al., Token Merging, arXiv 2210.09461. After the attention of every block, r tokens are merged away:
tokens are split alternately into A and B, each of A is matched with the token of B whose key is most similar, the r
most similar pairs are averaged by size, and attention adds the logarithm of the sizes to the scores of its keys.

``python -m posattn.bench.merging MODEL --images DIR --r 8 16 --converted FOLDER ...`` prints the frontier.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float, Int
from timm.data import create_transform, resolve_model_data_config
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from posattn import checks
from posattn.bench.timing import Quartiles, interleaved, quartiles
from posattn.settings import Count, Distincts, Pixels, Repeats, Several, check
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.adapters.vit import ViT
from posattn.vision.convert.quality import COSINE, NEIGHBOURS, Estimate, Quality, estimate, features_of
from posattn.vision.convert.saving import load
from posattn.vision.data.pictures import Pictures

Tokens = Float[Tensor, "n N d"]
Merged = Float[Tensor, "n M d"]


class Matching(NamedTuple):
    """Which tokens of A go into which of B; A are the tokens at even places, B those at odd ones."""

    kept: Int[Tensor, "n k"]  # numbers in A of the tokens that stay, in order
    merged: Int[Tensor, "n r"]  # numbers in A of those that go
    into: Int[Tensor, "n r"]  # the number in B of the token that each goes into


def match(keys: Tokens, r: int, prefix: int) -> Matching:
    """The r most similar pairs by the cosine of their keys, at most half of the tokens.

    The first ``prefix`` tokens neither merge nor are merged into.
    """
    unit = F.normalize(keys, dim=-1)
    even, odd = unit[:, ::2], unit[:, 1::2]
    similar = even @ odd.transpose(1, 2)
    similar[:, : (prefix + 1) // 2] = -torch.inf
    similar[:, :, : prefix // 2] = -torch.inf
    closest, place = similar.max(2)
    order = closest.argsort(1, descending=True)
    r = min(r, (keys.shape[1] - prefix) // 2)
    merged = order[:, :r]
    return Matching(order[:, r:].sort(1).values, merged, place.gather(1, merged))


def sums(values: Tokens, matching: Matching) -> Merged:
    """The tokens of A that stay, then those of B, to which the merged ones are added."""
    even, odd = values[:, ::2], values[:, 1::2]
    kept, merged, into = (index[..., None].expand(-1, -1, values.shape[2]) for index in matching)
    return torch.cat([even.gather(1, kept), odd.scatter_add(1, into, even.gather(1, merged))], 1)


def merge(
    tokens: Tokens, sizes: Float[Tensor, "n N 1"], matching: Matching
) -> tuple[Merged, Float[Tensor, "n M 1"]]:
    """The averages of merged tokens, weighted by size, and their sizes."""
    total = sums(sizes, matching)
    return sums(tokens * sizes, matching) / total, total


class Sizes:
    """The sizes of the tokens between the blocks of a model; None where none was merged yet."""

    value: Tensor | None = None


class MergingBlock(nn.Module):
    """A timm block that merges r tokens between its attention and its MLP."""

    def __init__(self, block: Any, r: int, prefix: int, sizes: Sizes, first: bool) -> None:
        super().__init__()
        self.block, self.r, self.prefix, self.sizes, self.first = block, r, prefix, sizes, first

    def forward(self, x: Tokens) -> Merged:
        block = self.block
        if self.first:
            self.sizes.value = None
        mixed, keys = attend(block.attn, block.norm1(x), self.sizes.value)
        x = x + block.drop_path1(block.ls1(mixed))
        if self.r:
            sizes = x.new_ones(*x.shape[:2], 1) if self.sizes.value is None else self.sizes.value
            x, self.sizes.value = merge(x, sizes, match(keys, self.r, self.prefix))
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def attend(
    attn: Any, x: Tokens, sizes: Float[Tensor, "n N 1"] | None
) -> tuple[Tokens, Float[Tensor, "n N e"]]:
    """Attention, fused, where a key counts as often as its size; and the keys, averaged over heads."""
    qkv = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = attn.q_norm(qkv[0]), attn.k_norm(qkv[1]), qkv[2]
    bias = None if sizes is None else sizes.log().transpose(1, 2)[:, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2)))), key.mean(1)


def merge_tokens(vit: nn.Module, r: int) -> Any:
    """A copy of a timm ViT in evaluation mode that merges r tokens in each block.

    Raises TypeError for blocks that are not timm's plain ones.
    """
    checks.natural("r", r)
    model: Any = copy.deepcopy(vit).eval()
    sizes = Sizes()
    for number, block in enumerate(model.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            raise TypeError(
                f"blocks.{number} ({type(block).__name__}) is not supported: tokens merge in plain blocks"
            )
        model.blocks[number] = MergingBlock(block, r, model.num_prefix_tokens, sizes, number == 0)
    return model


class Point(NamedTuple):
    """A model on the frontier."""

    losses: dict[str, Estimate]  # what is kept of the original's features, by measure
    images_per_second: Quartiles
    speedup: Quartiles  # relative to the original in the same round


def frontier(
    models: Mapping[str, nn.Module], batches: list[Tensor], shape: Sequence[int], rounds: int, nearest: int
) -> dict[str, Point]:
    """What each model keeps of the features of the first, and its speed, all interleaved.

    Args:
        models: by name, the original first.
        batches: images that the features are compared on.
        shape: of the batch that is timed.
        rounds: timed rounds, after one warm-up.
        nearest: neighbours of a picture.
    """
    images = torch.randn(*shape)
    original = next(iter(models))
    with torch.inference_mode():
        quality = Quality(features_of(models[original], batches), nearest=nearest)
        kept = {name: quality.of(features_of(model, batches)) for name, model in models.items()}
        seconds = interleaved({name: partial(model, images) for name, model in models.items()}, rounds)
    return {
        name: Point(
            {measure: estimate(kept[name][measure]) for measure in (COSINE, NEIGHBOURS)},
            quartiles([shape[0] / each for each in seconds[name]]),
            quartiles([a / b for a, b in zip(seconds[original], seconds[name], strict=True)]),
        )
        for name in models
    }


@dataclass(frozen=True)
class Settings:
    """The frontier of token merging and of converted models."""

    model: tyro.conf.Positional[str]
    """The original, a timm model."""
    images: str
    """A folder of pictures."""
    checkpoint: Path | None = None
    """Its weights; default: the pretrained ones."""
    image_size: Pixels | None = None
    """Default: the model's own."""
    limit: Count = 40
    """Pictures that the features are compared on."""
    nearest: Count = 5
    """Neighbours of a picture."""
    r: Annotated[Several[Count], tyro.conf.arg(name="r")] = (8, 16, 32)
    """Tokens merged in each block, one model for each."""
    converted: Distincts[Path] = ()
    """Folders of `posattn convert`, of the same image size."""
    rounds: Repeats = 5
    """Timed rounds, after one warm-up."""
    batch: Count = 1
    """Pictures of the timed batch."""
    threads: Count = 1
    """Threads of a CPU."""

    def validate(self) -> None:
        """Raise ValueError for fewer pictures than the neighbours need."""
        if self.limit < self.nearest + 2:
            raise ValueError(
                f"limit must be at least {self.nearest + 2} for {self.nearest} nearest neighbours, got {self.limit}"
            )


def original_of(settings: Settings) -> ViT:
    """The model to compare with, at the image size.

    Raises ValueError, TypeError or FileNotFoundError for a model or a checkpoint that is not there or does not fit.
    """
    if not timm.is_model(settings.model):
        raise ValueError(f"unknown model {settings.model!r}: see timm.list_models()")
    path = settings.checkpoint
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    vit = adapter_of(
        timm.create_model(settings.model, pretrained=path is None, checkpoint_path=str(path or "")).eval()
    )
    if settings.image_size is not None:
        vit.set_size((settings.image_size, settings.image_size))
    return vit


def models_of(settings: Settings, vit: ViT) -> dict[str, nn.Module]:
    """The original first, then it with merged tokens, then the converted ones.

    Raises ValueError for a converted model of another image size.
    """
    models = {"original": vit.model}
    models |= {f"merging, r = {r}": merge_tokens(vit.model, r) for r in settings.r}
    for folder in settings.converted:
        models[str(folder)] = load(folder)
        size = adapter_of(models[str(folder)]).image_size
        if size != vit.image_size:
            raise ValueError(f"--converted {folder} takes {size}, the original {vit.image_size}")
    return models


def run(settings: Settings) -> None:
    """Print the frontier."""
    check(settings)
    torch.set_num_threads(settings.threads)
    vit = original_of(settings)
    models = models_of(settings, vit)
    shape = (settings.batch, vit.channels, *vit.image_size)
    transform = create_transform(**{**resolve_model_data_config(vit.model), "input_size": shape[1:]})
    pictures = [transform(picture) for picture in Pictures(settings.images, None, settings.limit)]
    found = frontier(models, list(torch.stack(pictures).split(8)), shape, settings.rounds, settings.nearest)
    print(f"{'model':40} {'cosine':>17} {'neighbours':>17} {'images/s':>9} {'speedup (quartiles)':>22}")
    for name, point in found.items():
        cosine, near = (f"{mean:.4f} ± {error:.4f}" for mean, error in point.losses.values())
        median, low, high = point.speedup
        rate = f"{point.images_per_second.median:9.3f} {median:9.3f} ({low:.3f}-{high:.3f})"
        print(f"{name:40} {cosine:>17} {near:>17} {rate}")


def main(args: Sequence[str] | None = None) -> None:
    """The command; what is wrong with its settings is said in one line."""
    settings = tyro.cli(Settings, args=args, prog="python -m posattn.bench.merging")
    try:
        run(settings)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise SystemExit(f"posattn.bench.merging: {error}") from error


if __name__ == "__main__":
    main()
