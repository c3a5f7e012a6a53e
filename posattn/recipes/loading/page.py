"""The page of `posattn run loading`."""

from collections.abc import Mapping

from posattn.bench.timing import Quartiles, quartiles
from posattn.runs.page import Section, Table

TARGET = 5.0  # times the images that training steps take
Ratios = Mapping[str, Mapping[str, Quartiles]]


def loading_section(
    rounds: int, measured: Mapping[str, Mapping[str, list[float]]], ratios: Mapping[str, Ratios]
) -> Section:
    """The rates and ratios of each set, and the lowest ratio."""
    cases = [
        (ratio.median, name, kind, model)
        for name, kinds in ratios.items()
        for kind, models in kinds.items()
        for model, ratio in models.items()
    ]
    models = list(dict.fromkeys(model for *_, model in cases))
    ratio, name, kind, model = min(cases)
    reached = sum(case[0] >= TARGET for case in cases)
    return Section(
        "Loading",
        f"Loading should give at least {TARGET:g} times the images that training steps take. It did in {reached} of "
        f"{len(cases)} cases; the lowest was {ratio:.1f} ({name}, {kind}, {model}).",
        [
            Table(
                "Images per second, loaded and consumed",
                ["images", "work", "images/s", *(f"times {model}" for model in models)],
                [row for name in measured for row in set_rows(name, measured[name], ratios[name], models)],
                f"Median, and for ratios quartiles, of {rounds} rounds; ratios are taken within each round.",
            )
        ],
    )


def set_rows(
    name: str, rates: Mapping[str, list[float]], ratios: Ratios, models: list[str]
) -> list[list[str]]:
    """The lines of a set: each kind of loading, then the training steps."""
    loaded = [
        [
            name,
            kind,
            f"{quartiles(rates[kind]).median:,.0f}",
            *(f"{r.median:.1f} ({r.low:.1f} to {r.high:.1f})" for r in by_model.values()),
        ]
        for kind, by_model in ratios.items()
    ]
    steps = [
        [name, f"training step: {model}", f"{quartiles(rates[model]).median:,.0f}", "", ""]
        for model in models
    ]
    return [*loaded, *steps]
