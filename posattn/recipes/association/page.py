"""The page of `posattn run association`."""

from typing import Any

from posattn.recipes.association.settings import AssociationConfig, Setting
from posattn.runs.page import Lines, Maps, Section, Table, to_plain
from posattn.runs.seeds import mean_std, mean_std_text

FREE, ENCODED = "A free", "A = P Pᵀ"
SETTINGS = {
    "small": "The paper's small experiments",
    "analysis": "The setting of the analysis, in unit-norm steps",
}
MEASURES = {
    "association": "patch association",
    "mass": "attention inside the sets",
    "accuracy": "test accuracy",
    "alignment": "cos(v, w*)",
}


def sections(config: AssociationConfig, numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """One section per setting."""
    return to_plain([setting_section(name, getattr(config, name), numbers) for name in SETTINGS])


def setting_section(name: str, setting: Setting, numbers: dict[str, Any]) -> Section:
    """The section of one setting."""
    arms = {form: f"{name}, {form}" for form in (FREE, ENCODED)}
    curves = [
        Lines(
            title[0].upper() + title[1:],
            f"{arms[FREE]}.step",
            {form: f"{arm}.mean.{measure}" for form, arm in arms.items()},
            {form: f"{arm}.std.{measure}" for form, arm in arms.items()},
            x_label="gradient step",
            y_label=title,
        )
        for measure, title in MEASURES.items()
    ]
    caption = (
        "Patches reordered by their set, without the fixed diagonal; each frame on its own colour scale."
    )
    maps = [
        Maps(f"Scores over training, {form}", f"association:{arm}", numbers[arm]["frames"], caption=caption)
        for form, arm in arms.items()
    ]
    shown = {form: numbers[arm] for form, arm in arms.items()}
    return Section(
        SETTINGS[name], claim(setting, shown), [*curves, *maps, last_table(shown)], at="association"
    )


def claim(setting: Setting, arms: dict[str, Any]) -> str:
    """A sentence on the measurements."""
    kind, seeds = "unit-norm" if setting.normalize else "plain", len(arms[FREE]["complete"])
    ends = " and ".join(
        f"from {mean_std_text(arm['first']['association'])} to {mean_std_text(arm['last']['association'])} with "
        f"{form} (complete in {len(reached(arm))} of {seeds} seeds)"
        for form, arm in arms.items()
    )
    masses = " and ".join(
        f"from {mean_std(arm['first']['mass'])[0]:.3f} to {mean_std(arm['last']['mass'])[0]:.3f}"
        for arm in arms.values()
    )
    return (
        f"In {setting.steps} {kind} gradient steps from random initialisation patch association goes {ends}; chance "
        f"under the fixed diagonal is {arms[FREE]['chance']:.3f}. Association is the order of a row's scores, not how "
        f"much they differ: the attention inside the sets goes {masses}."
    )


def reached(arm: dict[str, Any]) -> list[float]:
    """The steps at which association was complete, of the seeds in which it was."""
    return [step for step in arm["complete"] if step is not None]


def last_table(arms: dict[str, Any]) -> Table:
    """The measures at the end."""
    columns = ["", "association", "mass inside", "accuracy", "cos(v, w*)", "exact rows", "complete at step"]
    rows = [
        [
            form,
            *(mean_std_text(arm["last"][measure]) for measure in (*MEASURES, "exact")),
            mean_std_text(reached(arm), 0) if reached(arm) else "not reached",
        ]
        for form, arm in arms.items()
    ]
    caption = "The step is the first measured one, over the seeds that reached it."
    return Table(f"At the end, mean ± std over {len(arms[FREE]['complete'])} seeds", columns, rows, caption)
