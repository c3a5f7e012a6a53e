"""Recipes, ``posattn run NAME``, and commands that work like one, ``posattn NAME``: a folder each.

``settings.py`` holds the flags; it imports no torch. For a recipe it has a function that returns the full config (a
frozen dataclass with a ``seed``), whose docstring is the header, registered with ``@recipe``. For a command it has the
dataclass itself, whose docstring is the help, registered with ``@command``. ``run.py`` has the job,
``run(config, folder, progress)``, which returns the content of result.json; ``page.py``, or ``run.py`` itself where
that is short, has the sections of the report.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posattn import checks

Config = Callable[[bool], Any]


@dataclass(frozen=True)
class Recipe:
    """A named run: ``config(smoke)`` gives its settings, ``job`` runs it."""

    name: str
    config: Config

    @property
    def claim(self) -> str:
        """The first line of the header."""
        return (self.config.__doc__ or "").strip().splitlines()[0]

    @property
    def job(self) -> Callable[..., dict[str, Any]]:
        """The function of config, run folder and progress bar that returns the content of result.json."""
        return job_of(self.config)


@dataclass(frozen=True)
class Command:
    """A top-level command: the fields of ``settings`` are its flags, ``folder_name`` names its run folder."""

    name: str
    settings: type
    folder_name: Callable[[Any], str]
    resumable: bool = False
    """An interrupted run of the same settings can be continued."""

    @property
    def job(self) -> Callable[..., dict[str, Any]]:
        """As a recipe's."""
        return job_of(self.settings)


RECIPES: dict[str, Recipe] = {}  # both are filled by ``load``
COMMANDS: dict[type, Command] = {}  # by the class of their settings


def job_of(settings: Any) -> Callable[..., dict[str, Any]]:
    """The function ``run`` of the module ``run`` in the same folder as the settings."""
    return importlib.import_module(f"{settings.__module__.rpartition('.')[0]}.run").run


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


def command(folder_name: Callable[[Any], str], resumable: bool = False) -> Callable[[type], type]:
    """Register a dataclass of settings as a top-level command that has the name of its folder.

    ``folder_name`` gives the name of a run folder below runs/ from the settings; ``resumable`` gives it --resume.
    """

    def register(settings: type) -> type:
        name = settings.__module__.split(".")[-2].replace("_", "-")
        COMMANDS[settings] = Command(name, settings, folder_name, resumable)
        return settings

    return register


def find(name: str) -> Recipe:
    """The recipe of that name. ValueError listing the known ones."""
    return RECIPES[checks.known("recipe", name, RECIPES)]
