"""Pooling runs: finished units and their files are copied, then the recipe makes result and page of them."""

import json
from pathlib import Path
from typing import Any

from rich.progress import Progress

from posattn import recipes, settings
from posattn.recipes.merge.settings import MergeConfig
from posattn.recipes.merge.sources import (
    MODELS,
    Source,
    check_alike,
    last,
    owners,
    pooled_settings,
    read_source,
    seed_in,
)
from posattn.recipes.stored import to_values
from posattn.runs.environment import devices, environments, note_environment
from posattn.runs.folder import CONFIG, REPLACEMENT, RunFolder, remove_run
from posattn.runs.page import Section, Table, to_plain

KEPT = ("command", "versions", "git_commit", "started")  # of a run's config.json


def run(config: MergeConfig, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Pool the runs into the folder, which becomes one run of their recipe. Where that fails nothing is left in it."""
    sources = sorted(map(read_source, config.runs), key=lambda source: source.settings.seed)
    out = folder.path.parent if folder.path.name == REPLACEMENT else folder.path
    if out.resolve() in {path.resolve() for path in config.runs}:
        raise ValueError(f"{out} is one of the runs; choose another --out")
    check_alike(sources)
    whole = pooled_settings(sources, config.data_dir)
    chosen = choose_units(sources, whole.seed)
    settings.check(whole)
    try:
        return pool(sources, chosen, whole, folder, progress)
    except BaseException:
        remove_run(folder.path)
        raise


def pool(
    sources: list[Source], chosen: dict[str, Source], whole: Any, folder: RunFolder, progress: Progress
) -> dict[str, Any]:
    """Copy the units and have the recipe compute the rest."""
    recipe = recipes.find(sources[0].recipe)
    origins = [origin for source in sources for origin in origins_of(source, chosen)]
    described = {
        "recipe": recipe.name,
        "config": to_values(whole),
        "seed": whole.seed,
        "merged_from": origins,
    }
    folder.save(CONFIG, json.dumps(folder.config | described, indent=1).encode())
    copy_units(chosen, folder)
    for source in sources:
        for name, sha256 in source.folder.data().items():
            folder.same_data(name, sha256)
        for each in environments(source.folder):
            note_environment(folder, each)
    folder.computes = False
    result = recipe.job(whole, folder, progress)
    shared = {
        name: str(source.folder.path)
        for name, source in chosen.items()
        if seed_in(name) is None and name in folder.used  # the baselines of one seed are not those of three
    }
    if computed := sorted(folder.finished_units() - chosen.keys()):
        note_environment(folder, folder.config)
    unused = sorted(chosen.keys() - folder.used)
    result["page"] += to_plain([origins_section(origins, shared, computed, unused)])
    return result | {"merged_from": origins}


def choose_units(sources: list[Source], lowest: int) -> dict[str, Source]:
    """The run that each unit comes from.

    A unit without a seed of its own comes from a run that starts with the lowest seed and has every model, as it would
    be in one run of the whole: where none has it, it is computed anew, or refused if it is part of a sweep.
    """
    chosen, models = owners(sources), [models_of(source) for source in sources]
    for source, its in zip(sources, models, strict=True):
        for name in source.units.keys() - chosen.keys():
            if seed_in(name) is not None or (source.settings.seed == lowest and its == set().union(*models)):
                chosen.setdefault(name, source)
    return chosen


def models_of(source: Source) -> set[str]:
    """The names in settings that list models."""
    return {model for place, value in source.places.items() if last(place) == MODELS for model in value}


def origins_of(source: Source, chosen: dict[str, Source]) -> list[dict[str, Any]]:
    """What is kept of a run: where and how it was made, and its seeds. A merged run hands on its own."""
    described = source.folder.config
    if "merged_from" in described:
        return described["merged_from"]
    units = sorted(name for name, owner in chosen.items() if owner is source)
    kept = {name: described.get(name) for name in KEPT} | {"device": "; ".join(devices(source.folder))}
    return [{"run": str(source.folder.path), "seeds": sorted(source.own_seeds), "units": units, **kept}]


def copy_units(chosen: dict[str, Source], folder: RunFolder) -> None:
    """Copy units with their files and the log lines of their trainings. ValueError naming a file that is damaged."""
    for name, source in chosen.items():
        unit = source.units[name]
        for file in unit["files"]:
            folder.save(file, source.folder.checked(file).read_bytes())
        folder.keep(name, unit["value"], unit["files"])
    for source in {id(source): source for source in chosen.values()}.values():
        files = {file for name in chosen if chosen[name] is source for file in source.units[name]["files"]}
        trainings = {Path(file).stem for file in files}
        for line in source.folder.journal.read_from()[0]:
            if line["event"] in trainings:
                folder.log(**{key: value for key, value in line.items() if key != "crc32"})


def origins_section(
    origins: list[dict[str, Any]], shared: dict[str, str], computed: list[str], unused: list[str]
) -> Section:
    """A row per run, where the numbers come from that belong to no seed, and the parts that the whole does not have."""
    claim = (
        f"{len(origins)} runs of equal settings are pooled; each training took its seconds on its own device."
    )
    if shared:
        claim += (
            f" Without a seed: {', '.join(f'{name} from {run}' for name, run in sorted(shared.items()))}."
        )
    if computed:
        claim += f" Computed on the merging machine: {', '.join(computed)}."
    if unused:
        claim += f" Not in the numbers, as one run of all seeds does not have them: {'; '.join(unused)}."
    rows = [
        [
            origin["run"],
            ", ".join(map(str, origin["seeds"])),
            ", ".join(origin["units"]),
            origin["device"],
            str((origin["versions"] or {}).get("torch")),
            (origin["git_commit"] or "unknown")[:12],
            origin["command"],
        ]
        for origin in origins
    ]
    table = Table("Merged runs", ["run", "seeds", "parts", "device", "torch", "commit", "command"], rows)
    return Section("Where the numbers come from", claim, [table])
