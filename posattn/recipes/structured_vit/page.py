"""The page of `posattn run structured-vit`."""

from typing import Any

from posattn.recipes.structured_vit.settings import StructuredVitConfig
from posattn.runs.page import Gallery, Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std_text

VIT, POSITIONAL = "ViT", "positional ViT"
MEASURES = {
    "accuracy": "test accuracy",
    "gram": "association of P Pᵀ",
    "attention": "association of average attention",
    "profile": "association of score profiles",
}


def sections(config: StructuredVitConfig, numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The one section of the page."""
    models, chance = numbers["models"], (config.task.set_size - 1) / (config.task.num_patches - 1)
    said = "; ".join(
        f"{name}: accuracy {mean_std_text(each['last']['accuracy'])}, P Pᵀ {mean_std_text(each['last']['gram'])}, "
        f"average attention {mean_std_text(each['last']['attention'])}, profiles "
        f"{mean_std_text(each['last']['profile'])}"
        for name, each in models.items()
    )
    claim = (
        f"Patch association off the diagonal (chance {chance:.3f}) after {config.steps} steps of AdamW on fresh "
        f"samples, mean ± std over {config.seeds} seeds: {said}."
    )
    figures = [
        Lines(
            title[0].upper() + title[1:],
            "step",
            {name: f"models.{name}.mean.{measure}" for name in models},
            {name: f"models.{name}.std.{measure}" for name in models},
            x_label="step",
            y_label=title,
        )
        for measure, title in MEASURES.items()
    ]
    maps = [
        Gallery(
            f"{name}: P Pᵀ and the average attention at the end",
            f"structured:{name}",
            ["P Pᵀ", "average attention"],
            caption="First seed, patches reordered by their set; mean over layers and heads; each on its own scale.",
        )
        for name in models
    ]
    table = Table(
        "At the end",
        ["", *MEASURES.values()],
        [
            [name, *(mean_std_text(each["last"][measure]) for measure in MEASURES)]
            for name, each in models.items()
        ],
        f"Association: the share of each row's {config.task.set_size - 1} largest entries off the diagonal that lie in "
        "its own set; of the attention, the mean over the heads of the layer in which it is largest.",
    )
    return to_plain([Section("Where a Transformer keeps the sets", claim, [*figures, table, *maps])])
