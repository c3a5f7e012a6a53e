"""Recipes: named runs. A recipe is a function that returns its full config; its docstring is its header.

Its config is a frozen dataclass with a ``seed``; its job takes the config, the run folder and a progress bar, and
returns the content of result.json.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from posattn import checks
from posattn.runs.folder import RunFolder

Job = Callable[[Any, RunFolder, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """A named run: ``config(smoke)`` gives its settings, ``job`` does it."""

    name: str
    config: Callable[[bool], Any]
    job: Job

    @property
    def claim(self) -> str:
        """The first line of the header."""
        return (self.config.__doc__ or "").strip().splitlines()[0]


RECIPES: dict[str, Recipe] = {}  # filled by ``load``


def load() -> None:
    """Import every module below this folder, which registers its recipes."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)


def recipe(job: Job) -> Callable[[Callable[[bool], Any]], Callable[[bool], Any]]:
    """Register a config function, under its own name with dashes, as the recipe that ``job`` runs."""

    def register(config: Callable[[bool], Any]) -> Callable[[bool], Any]:
        name = config.__name__.replace("_", "-")
        RECIPES[name] = Recipe(name, config, job)
        return config

    return register


def find(name: str) -> Recipe:
    """The recipe of that name. ValueError listing the known ones."""
    return RECIPES[checks.known("recipe", name, RECIPES)]
