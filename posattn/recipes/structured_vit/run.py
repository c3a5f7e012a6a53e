"""timm's ViT and the positional ViT trained on the structured data, and where in them the sets show."""

from typing import Any

import torch
from rich.progress import Progress
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.recipes.structured_vit import page
from posattn.recipes.structured_vit.settings import StructuredVitConfig
from posattn.runs.folder import RunFolder
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep
from posattn.shapes import Logits, Maps, Patches
from posattn.structure.partition import Partition
from posattn.theory.descent import descend
from posattn.theory.simplified import logistic_loss
from posattn.theory.task import Batch, StructuredTask
from posattn.theory.tracking import association_of_others, by_set, check_sets, evenly, rounded, track
from posattn.vision.inspect.average import profile_association
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

MODELS = {page.VIT: VisionTransformer, page.POSITIONAL: VisionTransformerPosAttn}


def run(config: StructuredVitConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every model, every seed; the maps of the first."""
    check_sets(
        Partition.contiguous(config.task.num_patches, config.task.set_size)
    )  # before anything is trained
    checks.divides("num_heads", config.model.num_heads, "embed_dim", config.model.embed_dim)
    seeds = range(config.seed, config.seed + config.seeds)
    settings = {f"{name}, seed={seed}": (config, name, seed) for name in MODELS for seed in seeds}
    found = sweep("structured-vit", settings, train_one, run, progress)
    runs = {name: [found[f"{name}, seed={seed}"] for seed in seeds] for name in MODELS}
    run.save_tensors("structured", {name: torch.tensor(each[0]["maps"]) for name, each in runs.items()})
    numbers = {name: over_seeds([each["history"] for each in every]) for name, every in runs.items()}
    for name, every in runs.items():
        numbers[name]["last"] = {k: [each["history"][k][-1] for each in every] for k in every[0]["history"]}
    result = {"step": runs[page.VIT][0]["history"]["step"], "models": numbers}
    return {
        "title": "A full Transformer on the structured data",
        "summary": "timm's ViT and the positional ViT read the patches of the structured task as tokens; patch "
        "association of the position embedding's Gram matrix, of the average attention and of score profiles.",
        **result,
        "page": page.sections(config, result),
    }


class TokenViT(nn.Module):
    """A ViT of timm's that reads (n, D, d) tokens: images of 1 by D pixels and d channels, patches of one pixel."""

    def __init__(self, kind: type[VisionTransformer], config: StructuredVitConfig) -> None:
        super().__init__()
        task, size = config.task, config.model
        self.vit: Any = kind(
            img_size=(1, task.num_patches),  # type: ignore[arg-type]
            patch_size=1,
            in_chans=task.dim,
            num_classes=1,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.num_heads,
            class_token=False,
            global_pool="avg",
        )

    def forward(self, patches: Patches) -> Logits:
        return self.vit(patches.mT.unsqueeze(2)).squeeze(-1)

    def encodings(self) -> Tensor:
        """P: what positional attention reads, or the embedding added to the tokens."""
        shared = getattr(self.vit, "pos_encodings", None)
        return (self.vit.pos_embed[0] if shared is None else shared.weight).detach()

    @torch.no_grad()
    def average_attention(self, patches: Patches) -> Maps:
        """The mean over samples of the attention of every layer and head: (layers, h, D, D)."""
        if isinstance(self.vit, VisionTransformerPosAttn):
            return self.vit.attention_maps()
        seen: list[Tensor] = []
        hooks = []
        for block in self.vit.blocks:
            block.attn.fused_attn = False  # so that the maps pass through attn_drop
            keep = lambda module, inputs, output: seen.append(inputs[0].mean(0))  # noqa: E731
            hooks.append(block.attn.attn_drop.register_forward_hook(keep))
        self(patches)
        for hook, block in zip(hooks, self.vit.blocks, strict=True):
            hook.remove()
            block.attn.fused_attn = True
        return torch.stack(seen)


def train_one(config: StructuredVitConfig, name: str, seed: int) -> dict[str, Any]:
    """One training, measured from its start; its Gram matrix and average attention at the end."""
    torch.manual_seed(seed)  # timm initialises from the global generator
    generator, sizes = Generator().manual_seed(seed), config.task
    partition = Partition.random(sizes.num_patches, sizes.set_size, generator=generator)
    task = StructuredTask(partition, dim=sizes.dim, noise_rate=sizes.noise_rate, generator=generator)
    model = TokenViT(MODELS[name], config)
    test = task.sample(config.test_samples, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    training = descend(
        model,
        lambda: task.sample(config.batch_size, generator=generator),
        config.steps,
        optimizer=optimizer,
        decay=True,
    )
    points = evenly(config.steps, config.measurements)
    history = track(training, points, lambda step: describe(model, partition, test))
    maps = [gram(model), model.average_attention(test.patches).mean((0, 1))]
    return {"history": history, "maps": [rounded(by_set(map_, partition)) for map_ in maps]}


@torch.no_grad()
def describe(model: TokenViT, partition: Partition, test: Batch) -> dict[str, float]:
    """Loss, accuracy and the association of P Pᵀ; for the attention, the mean over heads of the best layer."""
    model.eval()
    logits, maps = model(test.patches), model.average_attention(test.patches)
    model.train()
    layers = [[association_of_others(head, partition) for head in layer] for layer in maps]
    profiles = profile_association(maps, partition.same).mean(-1)
    return {
        "loss": logistic_loss(logits, test.labels).item(),
        "accuracy": (logits * test.labels > 0).double().mean().item(),
        "gram": association_of_others(gram(model), partition),
        "attention": max(sum(layer) / len(layer) for layer in layers),
        "profile": profiles.max().item(),
    }


def gram(model: TokenViT) -> Tensor:
    """P Pᵀ off the diagonal, P's mean over positions taken off."""
    encodings = model.encodings()
    encodings = encodings - encodings.mean(0)
    return (encodings @ encodings.T).fill_diagonal_(0.0)
