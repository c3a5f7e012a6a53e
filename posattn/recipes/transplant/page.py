"""The page of `posattn run transplant`."""

from typing import Any

from posattn.recipes.transplant.settings import TransplantConfig
from posattn.runs.page import Section, Table, mean_lines
from posattn.runs.seeds import mean_std_text

TRANSPLANTED, SCRATCH, TUNED, LOCAL = "transplanted maps", "scratch", "fine-tuned", "random locality"
ARMS = (TRANSPLANTED, SCRATCH, TUNED, LOCAL)


def target_section(config: TransplantConfig, target: str, numbers: dict[str, Any]) -> Section:
    """The curves of one target."""
    source, sizes = config.data.data, numbers["size"]
    few, many = ({arm: f"{100 * numbers['mean'][arm][i]:.1f} %" for arm in ARMS} for i in (0, -1))
    claim = (
        f"With {sizes[0]} images per class of {target}, frozen maps of {source} gave {few[TRANSPLANTED]}, training "
        f"from scratch {few[SCRATCH]}, fine-tuning of the whole model {few[TUNED]} and maps of random locality "
        f"{few[LOCAL]}; with {sizes[-1]}, {many[TRANSPLANTED]}, {many[SCRATCH]}, {many[TUNED]} and {many[LOCAL]}."
    )
    rows = [
        [f"{size}", *(mean_std_text([one[arm][i] for one in numbers["seeds"]], 1, 100) for arm in ARMS)]
        for i, size in enumerate(sizes)
    ]
    caption = f"Mean and standard deviation over {config.seeds} seeds; {config.target.steps} steps each."
    figure = mean_lines(
        f"Test accuracy on {target}",
        "size",
        {arm: arm for arm in ARMS},
        x_label="training images per class",
        y_label="test accuracy",
        x_log=True,
        caption=caption,
    )
    table = Table(f"Test accuracy on {target}, %", ["images per class", *ARMS], rows, caption)
    return Section(f"{source} to {target}", claim, [figure, table], at=f"targets.{target}")
