"""The runs that are pooled: what they hold, whether they go together, and the settings of the whole."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posattn.recipes.stored import read_stored, to_values, with_values
from posattn.runs.describe import OF_THE_MACHINE
from posattn.runs.device import refuse_mixed_precision
from posattn.runs.folder import CONFIG, RunFolder
from posattn.runs.record import is_run

SEED, SEEDS, MODELS = "seed", "seeds", "models"
SEEDED = re.compile(r"(?:/|\bseed=)(\d+)$")  # the names of units that depend on a seed of their own

Values = dict[str, Any]


class Source(NamedTuple):
    """A run to pool."""

    folder: RunFolder
    recipe: str
    settings: Any
    units: dict[str, dict[str, Any]]  # the finished ones by name: value and files

    @property
    def places(self) -> Values:
        """The settings as JSON holds them, by place: "train.epochs"."""
        return flatten(to_values(self.settings))

    @property
    def seeds(self) -> dict[str, range]:
        """The seeds that each setting which counts seeds stands for, by its place."""
        first = self.settings.seed
        return {place: range(first, first + n) for place, n in self.places.items() if last(place) == SEEDS}

    @property
    def own(self) -> list[str]:
        """The units that depend on a seed among those that the settings name."""
        declared = {seed for seeds in self.seeds.values() for seed in seeds}
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


def flatten(values: Values, prefix: str = "") -> Values:
    """A tree of settings as one level, by their places."""
    places: Values = {}
    for name, value in values.items():
        place = f"{prefix}{name}"
        places |= flatten(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return places


def nest(places: Values) -> Values:
    """The inverse of ``flatten``."""
    tree: Values = {}
    for place, value in places.items():
        *groups, name = place.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    return tree


def last(place: str) -> str:
    """The name of the setting at a place."""
    return place.rpartition(".")[2]


def check_alike(sources: Sequence[Source]) -> None:
    """ValueError naming the first difference of recipe, settings, data or precision, or a recipe without seeds."""
    first = sources[0]
    for source in sources[1:]:
        old, new = compared(first), compared(source)
        for place in (place for place in old | new if old.get(place) != new.get(place)):
            said = " and ".join(
                f"{values.get(place)!r} in {one.folder.path}" for values, one in ((old, first), (new, source))
            )
            raise ValueError(f"{place} is {said}: runs of different settings are not pooled")
    if not first.seeds:
        raise ValueError(f"{first.folder.path} is a run of {first.recipe}, which has no seeds to pool")
    check_same_data(sources)
    check_precision(sources)


def compared(source: Source) -> Values:
    """The recipe, and the settings that must be equal, by place."""
    ignored = {SEED, SEEDS, MODELS} | OF_THE_MACHINE
    kept = {place: value for place, value in source.places.items() if last(place) not in ignored}
    return {"recipe": source.recipe} | kept


def check_same_data(sources: Iterable[Source]) -> None:
    """ValueError where one name stands for different data in two runs."""
    seen: dict[str, tuple[str, Path]] = {}
    for source in sources:
        for name, sha256 in source.folder.data().items():
            first, path = seen.setdefault(name, (sha256, source.folder.path))
            if sha256 != first:
                raise ValueError(
                    f"{name} differs between {path} and {source.folder.path}: runs on different data are not pooled"
                )


def check_precision(sources: Iterable[Source]) -> None:
    """ValueError where trainings were computed in different precisions."""
    refuse_mixed_precision(
        {
            f"{name} of {source.folder.path}": precision
            for source in sources
            for name, precision in source.folder.precisions().items()
        }
    )


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
    places = sources[0].places
    for place in places:
        if last(place) == SEED:
            places[place] = lowest
        elif last(place) == SEEDS:
            places[place] = count_seeds(place, sources, lowest)
        elif last(place) == MODELS:
            places[place] = list(dict.fromkeys(model for one in sources for model in one.places[place]))
        elif last(place) == "data_dir" and data_dir is not None:
            places[place] = str(data_dir)
    return with_values(sources[0].settings, nest(places))


def count_seeds(place: str, sources: Iterable[Source], lowest: int) -> int:
    """How many seeds the setting at ``place`` has in the whole, from ``lowest`` on."""
    seeds = {seed for one in sources for seed in one.seeds[place] if seed in one.own_seeds}
    for missing in range(lowest, max(seeds, default=lowest)):
        if missing not in seeds:
            raise ValueError(
                f"seed {missing} is in none of the runs, {max(seeds)} is; {place} counts them in a row"
            )
    return len(seeds)
