"""Recipes: named runs, a folder each.

``settings.py`` holds the flags and the header: a function that returns the full config (a frozen dataclass with a
``seed``), registered with ``@recipe``; it imports no torch. ``run.py`` has the job, ``run(config, folder, progress)``,
which returns the content of result.json; ``page.py`` says what the report shows.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posattn import checks

Config = Callable[[bool], Any]


@dataclass(frozen=True)
class Recipe:
    """A named run: ``config(smoke)`` gives its settings, ``job`` does it."""

    name: str
    config: Config

    @property
    def claim(self) -> str:
        """The first line of the header."""
        return (self.config.__doc__ or "").strip().splitlines()[0]

    @property
    def job(self) -> Callable[..., dict[str, Any]]:
        """What takes the config, the run folder and a progress bar, and returns the content of result.json."""
        folder = self.config.__module__.rpartition(".")[0]
        return importlib.import_module(f"{folder}.run").run


RECIPES: dict[str, Recipe] = {}  # filled by ``load``


def load() -> None:
    """Import the settings of every recipe, which register it."""
    for folder in pkgutil.iter_modules(__path__, f"{__name__}."):
        if folder.ispkg and importlib.util.find_spec(f"{folder.name}.settings"):
            importlib.import_module(f"{folder.name}.settings")


def recipe(config: Config) -> Config:
    """Register a config function, under its own name with dashes."""
    name = config.__name__.replace("_", "-")
    RECIPES[name] = Recipe(name, config)
    return config


def find(name: str) -> Recipe:
    """The recipe of that name. ValueError listing the known ones."""
    return RECIPES[checks.known("recipe", name, RECIPES)]
