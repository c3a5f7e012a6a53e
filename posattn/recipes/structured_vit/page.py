"""The page of `posattn run structured-vit`."""

from typing import Any

from posattn.recipes.structured_vit.settings import StructuredVitConfig
from posattn.runs.page import Gallery, Section, mean_lines, mean_table
from posattn.runs.seeds import averaged_text, mean_std_text

VIT, POSITIONAL = "ViT", "positional ViT"
MEASURES = {
    "accuracy": "Test accuracy",
    "gram": "Association of P Pᵀ",
    "attention": "Association of average attention",
    "profile": "Association of score profiles",
}


def structure_section(config: StructuredVitConfig, models: dict[str, Any]) -> Section:
    """Accuracy and the three associations of both models."""
    chance = (config.task.set_size - 1) / (config.task.num_patches - 1)
    last = {name: {measure: one["last"][measure] for measure in MEASURES} for name, one in models.items()}
    said = "; ".join(
        f"{name}: {', '.join(f'{measure} {mean_std_text(values)}' for measure, values in row.items())}"
        for name, row in last.items()
    )
    claim = (
        f"Accuracy and patch association off the diagonal (chance {chance:.3f}) of P Pᵀ (gram), average attention and "
        f"score profiles after {config.steps} steps of AdamW on fresh samples, "
        f"{averaged_text('mean ± std', config.seeds)}: {said}."
    )
    curves = [
        mean_lines(title, "step", {name: f"models.{name}.*.{measure}" for name in models}, "step", title)
        for measure, title in MEASURES.items()
    ]
    table = mean_table(
        "At the end",
        ["", *MEASURES.values()],
        {name: row.values() for name, row in last.items()},
        caption=f"Association: the share of each row's {config.task.set_size - 1} largest entries off the diagonal "
        "that lie in its own set; of attention and profiles, the mean over the heads of the layer in which it is "
        "largest. P Pᵀ: of P without its mean over the positions.",
    )
    maps = [
        Gallery(
            f"{name}: P Pᵀ and the average attention at the end",
            f"structured:{name}",
            ["P Pᵀ", "average attention"],
            caption="First seed, patches reordered by their set, each on its own scale. P Pᵀ: of P without its mean "
            "over the positions, and without the diagonal. Attention: the mean over layers and heads.",
        )
        for name in models
    ]
    return Section("Where a Transformer keeps the sets", claim, [*curves, table, *maps])
