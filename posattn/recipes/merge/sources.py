"""The runs that are pooled: what they hold, whether they go together, and the settings of the whole."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posattn.recipes.stored import read_stored, to_values, with_values
from posattn.runs.describe import OF_THE_MACHINE
from posattn.runs.folder import CONFIG, RunFolder
from posattn.runs.record import is_run

SEED, SEEDS, MODELS = "seed", "seeds", "models"
POOLED = {SEED, SEEDS, MODELS}
SEEDED = re.compile(r"(?:/|\bseed=)(\d+)$")  # the names of units that depend on a seed of their own

Values = dict[str, Any]


class Source(NamedTuple):
    """A run to pool."""

    folder: RunFolder
    recipe: str
    settings: Any
    units: dict[str, dict[str, Any]]  # the finished ones by name: value and files

    @property
    def values(self) -> Values:
        """The settings as JSON holds them."""
        return to_values(self.settings)

    @property
    def own(self) -> list[str]:
        """The units that depend on a seed among those that the settings name."""
        declared = {seed for _, seeds in seed_ranges(self) for seed in seeds}
        return [name for name in self.units if seed_in(name) in declared]

    @property
    def own_seeds(self) -> set[int]:
        """The seeds of which something is finished."""
        return {seed for name in self.own if (seed := seed_in(name)) is not None}


def read_source(path: Path) -> Source:
    """A run, finished or not. ValueError where there is none, or its settings are damaged."""
    if not is_run(path):
        raise ValueError(f"{path} holds no run")
    folder = RunFolder(path)
    recipe, settings = read_stored(folder.checked(CONFIG))
    return Source(folder, recipe, settings, {unit["name"]: unit for unit in folder.events("unit")})


def seed_in(unit: str) -> int | None:
    """The seed that a unit's name ends with."""
    found = SEEDED.search(unit)
    return None if found is None else int(found[1])


def leaves(values: Values, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """The place, the name and the value of every setting."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", name, value


def nested(places: dict[str, Any]) -> Values:
    """Settings by their places, as ``leaves`` gives them, as a tree."""
    tree: Values = {}
    for place, value in places.items():
        *groups, name = place.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return tree


def seed_ranges(source: Source) -> list[tuple[str, range]]:
    """The place of every setting that counts seeds, and the seeds that it stands for."""
    first = source.settings.seed
    return [(place, range(first, first + n)) for place, name, n in leaves(source.values) if name == SEEDS]


def check_alike(sources: Sequence[Source]) -> None:
    """ValueError naming the first difference of recipe, settings or precision, or a recipe without seeds."""
    first = sources[0]
    for source in sources[1:]:
        old, new = ({"recipe": each.recipe} | compared(each) for each in (first, source))
        for place in (place for place in old | new if old.get(place) != new.get(place)):
            pair = [
                f"{values.get(place)!r} in {each.folder.path}"
                for values, each in ((old, first), (new, source))
            ]
            raise ValueError(f"{place} is {' and '.join(pair)}: runs of different settings are not pooled")
    if not seed_ranges(first):
        raise ValueError(f"{first.folder.path} is a run of {first.recipe}, which has no seeds to pool")
    check_precision(sources)


def compared(source: Source) -> Values:
    """The settings that must be equal, by place."""
    kept = POOLED | OF_THE_MACHINE
    return {place: value for place, name, value in leaves(source.values) if name not in kept}


def check_precision(sources: Iterable[Source]) -> None:
    """ValueError where trainings were computed in different precisions, as `auto` chooses by the device."""
    seen: dict[str, Path] = {}
    for source in sources:
        values = (unit["value"] for unit in source.units.values())
        for precision in (
            value["precision"] for value in values if isinstance(value, dict) and "precision" in value
        ):
            seen.setdefault(precision, source.folder.path)
    if len(seen) > 1:
        said = ", ".join(f"{path} in {precision}" for precision, path in seen.items())
        raise ValueError(f"trainings differ in precision: {said}; set --train.precision")


def owners(sources: Iterable[Source]) -> dict[str, Source]:
    """The run that each unit with a seed of its own comes from. ValueError naming what two runs hold."""
    found: dict[str, Source] = {}
    for source in sources:
        for name in source.own:
            if name in found:
                pair = f"{found[name].folder.path} and {source.folder.path}"
                raise ValueError(f"seed {seed_in(name)} is in both {pair}: {name!r}")
            found[name] = source
    return found


def pooled_settings(sources: Sequence[Source], data_dir: Path | None = None) -> Any:
    """The settings of the whole. ValueError naming a seed that is missing between others."""
    lowest = min((seed for source in sources for seed in source.own_seeds), default=None)
    if lowest is None:
        raise ValueError(f"nothing is finished in {', '.join(str(source.folder.path) for source in sources)}")
    places: Values = {}
    for place, name, value in leaves(sources[0].values):
        if name == SEED:
            places[place] = lowest
        elif name == SEEDS:
            places[place] = count_seeds(place, sources, lowest)
        elif name == MODELS:
            both = [model for source in sources for model in dict(values_by_place(source))[place]]
            places[place] = list(dict.fromkeys(both))
        elif name == "data_dir" and data_dir is not None:
            places[place] = str(data_dir)
        else:
            places[place] = value
    return with_values(sources[0].settings, nested(places))


def values_by_place(source: Source) -> list[tuple[str, Any]]:
    """Every setting by its place."""
    return [(place, value) for place, _, value in leaves(source.values)]


def count_seeds(place: str, sources: Iterable[Source], lowest: int) -> int:
    """How many seeds the setting at ``place`` has in the whole, from ``lowest`` on."""
    seeds = {seed for s in sources for seed in dict(seed_ranges(s))[place] if seed in s.own_seeds}
    for missing in range(lowest, max(seeds, default=lowest)):
        if missing not in seeds:
            raise ValueError(
                f"seed {missing} is in none of the runs, {max(seeds)} is; {place} counts them in a row"
            )
    return len(seeds)
