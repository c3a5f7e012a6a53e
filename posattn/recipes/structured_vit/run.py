"""timm's ViT and the positional ViT trained on the structured data, and where in them the sets show."""

from typing import Any

import torch
from rich.progress import Progress
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor, nn

from posattn.recipes.kit.theory import draw_task, read_histories
from posattn.recipes.structured_vit.page import POSITIONAL, VIT, structure_section
from posattn.recipes.structured_vit.settings import StructuredVitConfig
from posattn.runs.folder import RunFolder
from posattn.runs.page import to_plain
from posattn.runs.seeds import over_seeds
from posattn.runs.sweep import sweep_seeds
from posattn.shapes import Logits, Maps, Patches
from posattn.structure.partition import Cover
from posattn.theory.descent import descend
from posattn.theory.simplified import logistic_loss
from posattn.theory.task import Batch
from posattn.theory.tracking import association_of_others, by_set, evenly, rounded, track
from posattn.vision.convert.averages import average_maps
from posattn.vision.inspect.average import profile_association
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

MODELS = {VIT: VisionTransformer, POSITIONAL: VisionTransformerPosAttn}


def run(config: StructuredVitConfig, run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Every model, every seed; the maps of the first."""
    arms = {name: (config, name) for name in MODELS}
    runs = sweep_seeds("structured-vit", arms, config.all_seeds, train_one, run, progress)
    run.save_tensors("structured", {name: torch.tensor(ones[0]["maps"]) for name, ones in runs.items()})
    histories = {name: [one["history"] for one in ones] for name, ones in runs.items()}
    numbers = {
        name: {**over_seeds(ones), "last": read_histories(ones, -1)} for name, ones in histories.items()
    }
    return {
        "title": "A full Transformer on the structured data",
        "summary": "timm's ViT and the positional ViT read the patches of the structured task as tokens; patch "
        "association of the position embedding's Gram matrix, of the average attention and of score profiles.",
        "step": histories[VIT][0]["step"],
        "models": numbers,
        "page": to_plain([structure_section(config, numbers)]),
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
        maps = average_maps(self.vit, patches.mT.unsqueeze(2), range(len(self.vit.blocks)))
        return torch.stack(list(maps.values()))


def train_one(config: StructuredVitConfig, name: str, seed: int) -> dict[str, Any]:
    """One training, measured from its start; its Gram matrix and average attention at the end."""
    torch.manual_seed(seed)  # timm initialises from the global generator
    generator, sizes = Generator().manual_seed(seed), config.task
    task = draw_task(sizes.num_patches, sizes.set_size, sizes.dim, sizes.noise_rate, generator)
    model = TokenViT(MODELS[name], config)
    test = task.sample(config.test_samples, generator=generator)
    training = descend(
        model,
        lambda: task.sample(config.batch_size, generator=generator),
        config.steps,
        optimizer=torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay),
        decay=True,
    )
    points = evenly(config.steps, config.measurements)
    history = track(training, points, lambda step: describe(model, task.partition, test))
    maps = [gram(model), model.average_attention(test.patches).mean((0, 1))]
    return {"history": history, "maps": [rounded(by_set(map_, task.partition)) for map_ in maps]}


@torch.no_grad()
def describe(model: TokenViT, partition: Cover, test: Batch) -> dict[str, float]:
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
