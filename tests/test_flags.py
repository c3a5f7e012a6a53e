"""Every flag of every recipe and command is read by its run: one that is ignored or overwritten fails, by name."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from layouts import encoded, noise, write_folder
from rich.progress import Progress

from posattn.recipes import COMMANDS, RECIPES, load
from posattn.recipes.compare.settings import CompareConfig
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.demo.settings import DemoConfig
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.inspect.settings import InspectConfig
from posattn.recipes.kit.settings import ORIGINAL, POSITIONAL
from posattn.recipes.loading.settings import LoadingConfig
from posattn.recipes.merge.settings import MergeConfig
from posattn.recipes.teachers.settings import teachers
from posattn.runs.engines import use_engine
from posattn.runs.folder import open_run
from posattn.vision.data.config import DataConfig

load()
BOOKKEEPING = {"dataclasses", "posattn.settings", "posattn.runs.folder"}  # modules that read every setting
GENERATED = {"__eq__", "__hash__", "__post_init__", "__repr__", "validate"}  # functions that do


class Integer(int):
    """A setting of the user, as the next three: a run that overwrites it no longer holds one."""


class Number(float):
    pass


class Text(str):
    __slots__ = ()


class Values(tuple[Any, ...]):
    __slots__ = ()


MARKS: dict[type, type] = {int: Integer, float: Number, str: Text, tuple: Values}
OWN = (*MARKS.values(), bool, type(None), Path)  # the others cannot be marked


def mark(value: Any) -> Any:
    return MARKS[type(value)](value) if type(value) in MARKS else value


def recording(settings: Any, seen: set[str], path: str = "") -> Any:
    """The settings, as instances of subclasses that add to ``seen`` the place of each value of the user that is read.

    ``replace`` keeps the subclass, so that copies of the settings record too.
    """
    names = {field.name: f"{path}{field.name}" for field in fields(settings)}
    values = {name: getattr(settings, name) for name in names}
    values = {
        name: recording(value, seen, f"{names[name]}.") if is_dataclass(value) else mark(value)
        for name, value in values.items()
    }

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in names and isinstance(value, OWN):
            caller = sys._getframe(1)
            if caller.f_globals["__name__"] not in BOOKKEEPING and caller.f_code.co_name not in GENERATED:
                seen.add(names[name])
        return value

    kind = type(settings)
    return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})(**values)


def flags(settings: Any, path: str = "") -> Iterator[str]:
    """The place of every setting."""
    for field in fields(settings):
        value, place = getattr(settings, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            yield from flags(value, f"{place}.")
        else:
            yield place


def unread(job: Callable[..., Any], settings: Any, folder: Path) -> list[str]:
    """The flags that the job does not read."""
    seen: set[str] = set()
    run = open_run(folder, "test", settings)
    with use_engine("sequential"):
        job(recording(settings, seen), run, Progress(disable=True))
    return [place for place in flags(settings) if place not in seen]


@dataclass(frozen=True)
class Inner:
    used: int = 1
    overwritten: int = 2


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    same: Inner = Inner(overwritten=3)
    ignored: int = 3
    on: bool = False
    names: tuple[str, ...] = ("a",)


def test_settings_that_do_nothing_are_found(tmp_path: Path) -> None:
    def job(config: Outer, run: Any, progress: Progress) -> list[Any]:
        inner = replace(config.inner, overwritten=7)
        assert config in {config}
        used = [config.on, config.names, inner.used, inner.overwritten, config.same.overwritten]
        return [*used, repr(config)]

    assert unread(job, Outer(), tmp_path) == ["inner.overwritten", "same.used", "ignored"]


BY_JOB = {recipe.job: recipe for recipe in reversed(RECIPES.values())}  # one recipe for each job
LIMITS = {
    "seeds": 1,
    "steps": 4,
    "epochs": 1,
    "test_samples": 64,
    "measurements": 2,
    "frames": 2,
    "calibration": 32,
    "rounds": 2,
    "speed_rounds": 2,
    "samples": 300,
    "flow_samples": 50,
}
SMALL = {"after": (1,), "train_images": 256, "flow_times": (10.0,)}


def shrunk(settings: Any) -> Any:
    """The settings with what takes time made small."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    changes = {
        name: min(values[name], limit) for name, limit in LIMITS.items() if isinstance(values.get(name), int)
    }
    changes |= {name: value for name, value in SMALL.items() if name in values}
    if ORIGINAL in values.get("models", ()):
        changes["models"] = (ORIGINAL, POSITIONAL)
    changes |= {name: shrunk(value) for name, value in values.items() if is_dataclass(value)}
    return replace(settings, **changes)


def more_runs(settings: Any, pictures: Path) -> list[Any]:
    """Settings that read the flags which matter beside another flag only: those of streams."""
    if isinstance(settings, DemoConfig):
        return [replace(settings, images=images) for images in more_runs(settings.images, pictures)]
    if isinstance(settings, ImagesConfig):
        data = DataConfig(str(pictures), image_size=8, stream=True, workers=1)
        return [replace(settings, data=data, train_images=None, train=replace(settings.train, batch_size=4))]
    if isinstance(settings, LoadingConfig):
        return [replace(settings, sets=(), pictures=pictures, workers=1, batch_size=4, stream_batches=1)]
    return []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 4), ("test", 1)):
        write_folder(
            folder / split,
            {f"{kind}/{i}.png": encoded(noise(3, 9, 8)) for kind in "ab" for i in range(count)},
        )
    return folder


@pytest.mark.parametrize(
    "recipe", sorted(BY_JOB.values(), key=lambda one: one.name), ids=lambda one: one.name
)
def test_every_flag_is_read(recipe: Any, pictures: Path, tmp_path: Path) -> None:
    settings = shrunk(recipe.config(True))
    left = unread(recipe.job, settings, tmp_path / "run")
    for number, more in enumerate(more_runs(settings, pictures)):
        still = unread(recipe.job, more, tmp_path / f"run-{number}")
        left = [flag for flag in left if flag in still]
    assert left == []


def finished(settings: Any, recipe: str, path: Path) -> Path:
    """The folder of a finished run."""
    job = (RECIPES.get(recipe) or COMMANDS[type(settings)]).job
    with open_run(path, recipe, settings) as run:
        run.finish(job(settings, run, Progress(disable=True)))
    return path


def command_settings(kind: type, folder: Path) -> Any:
    """Small settings of a top-level command, over varied pictures in ``folder``."""
    if kind is MergeConfig:
        one = shrunk(replace(teachers(True), seeds=1))
        return MergeConfig((finished(one, "teachers", folder),))
    shades = {f"{i}.png": encoded((noise(3, 24, 24).int() * i % 256).to(torch.uint8)) for i in range(20)}
    write_folder(folder, shades)
    inspect = InspectConfig("test_vit", str(folder), limit=2)
    if kind is CompareConfig:
        runs = {"a": inspect, "b": replace(inspect, seed=1)}
        return CompareConfig(*(finished(runs[name], "inspect", folder.with_name(name)) for name in runs))
    if kind is ConvertConfig:
        torch.manual_seed(0)
        torch.save(timm.create_model("test_vit").state_dict(), weights := folder.with_suffix(".pth"))
        few = {
            "calibration": 2,
            "ranking": 6,
            "measured": 6,
            "nearest": 2,
            "points": 2,
            "width": 2,
            "steps": 2,
        }
        once = {"random_orders": 1, "recover": 1, "rounds": 2, "batch": 1, "batch_size": 2}
        return ConvertConfig("test_vit", str(folder), weights, **few, **once)
    assert kind is InspectConfig
    return inspect


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_flag_of_a_command_is_read(kind: type, tmp_path: Path) -> None:
    settings = command_settings(kind, tmp_path / "shades")
    assert unread(COMMANDS[kind].job, settings, tmp_path / "run") == []
