"""The page of `posattn run association`."""

from statistics import fmean
from typing import Any

from posattn.recipes.association.settings import Setting
from posattn.runs.page import Maps, Section, Table, mean_lines
from posattn.runs.seeds import averaged_text, mean_std_text

FREE, ENCODED = "A free", "A = P Pᵀ"
SETTINGS = {
    "small": "The paper's small experiments",
    "analysis": "The setting of the analysis",
}
MEASURES = {
    "association": "Patch association",
    "mass": "Attention inside the sets",
    "accuracy": "Test accuracy",
    "alignment": "cos(v, w*)",
    "exact": "Exact rows",
}


def setting_section(name: str, setting: Setting, numbers: dict[str, Any]) -> Section:
    """The section of one setting."""
    arms = {form: f"{name}, {form}" for form in (FREE, ENCODED)}
    curves = [
        mean_lines(
            title,
            f"{arms[FREE]}.step",
            {form: f"{arm}.*.{measure}" for form, arm in arms.items()},
            "gradient step",
            title,
        )
        for measure, title in MEASURES.items()
        if measure != "exact"
    ]
    caption = (
        "Patches reordered by their set, without the fixed diagonal; each frame on its own colour scale."
    )
    maps = [
        Maps(f"Scores over training, {form}", f"association:{arm}", numbers[arm]["frames"], caption=caption)
        for form, arm in arms.items()
    ]
    shown = {form: numbers[arm] for form, arm in arms.items()}
    items = [*curves, *maps, last_table(shown)]
    steps = ", in unit-norm steps" if setting.normalize else ""
    return Section(f"{SETTINGS[name]}{steps}", claim(setting, shown), items, at="association")


def claim(setting: Setting, arms: dict[str, Any]) -> str:
    """How far association and attention get from their start."""
    ends = " and ".join(
        f"from {mean_std_text(arm['first']['association'])} to {mean_std_text(arm['last']['association'])} with "
        f"{form} (complete in {len(reached(arm))} of {len(arm['complete'])} seeds)"
        for form, arm in arms.items()
    )
    masses = " and ".join(
        f"from {fmean(arm['first']['mass']):.3f} to {fmean(arm['last']['mass']):.3f}" for arm in arms.values()
    )
    chance = " and ".join(dict.fromkeys(f"{arm['chance']:.3f}" for arm in arms.values()))
    return (
        f"In {setting.steps} {'unit-norm' if setting.normalize else 'plain'} gradient steps from random "
        f"initialisation patch association goes {ends}; chance under the fixed diagonal is {chance}. "
        "Association is the order of a row's scores, not how much they differ: the attention inside the sets goes "
        f"{masses}."
    )


def reached(arm: dict[str, Any]) -> list[float]:
    """The steps at which association was complete, of the seeds in which it was."""
    return [step for step in arm["complete"] if step is not None]


def last_table(arms: dict[str, Any]) -> Table:
    """The measures at the end."""
    rows = []
    for form, arm in arms.items():
        step = mean_std_text(reached(arm), 0) if reached(arm) else "not reached"
        rows.append([form, *(mean_std_text(arm["last"][measure]) for measure in MEASURES), step])
    return Table(
        f"At the end, {averaged_text('mean ± std', len(arms[FREE]['complete']))}",
        ["", *MEASURES.values(), "Complete at step"],
        rows,
        "The step is the first measured one, over the seeds that reached it.",
    )
