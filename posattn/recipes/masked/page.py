"""The page of `posattn run masked`."""

from typing import Any

from posattn.recipes.masked.settings import MaskedConfig
from posattn.runs.page import Gallery, Section, Table, mean_lines, to_plain
from posattn.runs.seeds import averaged_text, mean_std_text

RECONSTRUCTION, LABELS = OBJECTIVES = ("masked reconstruction", "labels")
PLAIN, ADAM = OPTIMIZERS = ("gradient descent", "Adam")
FREE, ENCODED = FORMS = ("A free", "A = P Pᵀ")
MEASURES = {"association": "patch association off the diagonal", "mass": "attention inside the sets"}


def arm(*parts: str) -> str:
    """The name of a training."""
    return ", ".join(parts)


def sections(config: MaskedConfig, result: dict[str, Any]) -> list[dict[str, Any]]:
    """One section per optimizer."""
    return to_plain([section(optimizer, config, result["arms"]) for optimizer in OPTIMIZERS])


def section(optimizer: str, config: MaskedConfig, arms: dict[str, Any]) -> Section:
    """Both objectives and both forms of the scores under one optimizer."""
    shown = {
        arm(objective, form): arm(objective, optimizer, form) for objective in OBJECTIVES for form in FORMS
    }
    curves = [
        mean_lines(
            title[0].upper() + title[1:],
            "step",
            {label: f"arms.{name}.*.{measure}" for label, name in shown.items()},
            "step",
            title,
        )
        for measure, title in MEASURES.items()
    ]
    maps = [
        Gallery(
            f"Scores at the end, {label}",
            f"masked:{name}",
            caption="The first seed, patches reordered by their set, without the diagonal.",
        )
        for label, name in shown.items()
    ]
    table = last_table({label: arms[name] for label, name in shown.items()}, config.seeds)
    return Section(
        f"The sets found without labels: {optimizer}", claim(optimizer, config, arms), [*curves, table, *maps]
    )


def claim(optimizer: str, config: MaskedConfig, arms: dict[str, Any]) -> str:
    """A sentence on the measurements."""
    C, D = config.task.set_size, config.task.num_patches
    found = {
        objective: " and ".join(
            f"{mean_std_text(each['last']['association'])} with {form} ({reached(each['complete'])})"
            for form in FORMS
            for each in [arms[arm(objective, optimizer, form)]]
        )
        for objective in OBJECTIVES
    }
    return (
        f"After {config.steps} steps of {optimizer} on {config.batch_size} fresh samples each, patch association off "
        f"the diagonal (chance {(C - 1) / (D - 1):.3f}) is {found[RECONSTRUCTION]} by masked reconstruction, "
        f"{found[LABELS]} by labels; {averaged_text('mean ± std', config.seeds)}."
    )


def reached(steps: list[float | None]) -> str:
    """When the association was complete."""
    known = [step for step in steps if step is not None]
    if not known:
        return "never complete"
    return f"complete in {len(known)} of {len(steps)} seeds, at step {mean_std_text(known, 0)}"


def last_table(arms: dict[str, Any], seeds: int) -> Table:
    """The measures at the start and at the end."""
    rows = [
        [
            label,
            mean_std_text(each["first"]["association"]),
            *(mean_std_text(each["last"][measure]) for measure in ("association", "mass")),
            mean_std_text(each["last"]["learned"], 4),
            reached(each["complete"]),
        ]
        for label, each in arms.items()
    ]
    columns = ["", "association, start", "association, end", "attention inside", "learned", "complete"]
    caption = (
        "Attention inside the sets: its share off the diagonal. Learned: the share of the variance of hidden patches "
        "that is explained, for labels the accuracy; on fresh samples. Complete: the first measured step with "
        "association 1."
    )
    return Table(f"At the end, {averaged_text('mean ± std', seeds)}", columns, rows, caption)
