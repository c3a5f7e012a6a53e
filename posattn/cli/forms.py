"""The commands and their flags, as the types that tyro parses."""

import re
import shutil
import textwrap
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union

from tyro.conf import Fixed, Positional, Suppress, arg, subcommand

from posattn import recipes
from posattn.recipes import Command, Recipe
from posattn.recipes.stored import Stored

MOST_JOBS = 1024
BENCH, SPEED = "bench", "speed"  # `posattn bench` is short for `posattn run speed`
SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class List:
    """List the recipes, this package's timm models or the data sets."""

    what: Positional[Literal["recipes", "models", "data"]] = "recipes"
    """The list to print."""


@dataclass(frozen=True)
class Report:
    """Rebuild the report of a finished run, without retraining."""

    folder: Positional[Path]
    """The run folder."""
    export: Path | None = None
    """Also write the page as Markdown, with its figures and numbers, into this folder."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Completion:
    """Print a completion script. For bash, put `eval "$(posattn completion bash)"` into ~/.bashrc; for zsh, write it to
    a file _posattn in a folder of $fpath."""

    shell: Positional[Literal["bash", "zsh"]]
    """The shell."""


@dataclass(frozen=True)
class Work(Generic[SettingsT]):
    """A command that writes a run folder: its settings, and options that every such command has."""

    settings: Annotated[SettingsT, arg(name="")]
    out: Path | None = None
    """The run folder; default: a folder below runs/ with the name of the command."""
    overwrite: bool = False
    """Replace the run of the same recipe or command that is in the folder."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class LongWork(Work[SettingsT]):
    """A command whose interrupted run can be continued."""

    resume: bool = False
    """Continue an interrupted run of the same settings."""


@dataclass(frozen=True)
class Run(Work[SettingsT]):
    """`posattn run RECIPE`, and its options other than the settings of the recipe."""

    recipe: Suppress[Fixed[str]] = ""
    config: Path | None = None
    """Start from the settings in this file: a run's config.json, or YAML of the same form. Flags override them."""
    smoke: bool = False
    """Run at a size that takes seconds."""
    resume: bool = False
    """Continue an interrupted run of the same settings."""
    backend: Literal["loky", "sequential", "dask", "ray"] = "loky"
    """Where sweeps run: processes or a single process of this machine, or a Dask or Ray cluster."""
    jobs: int | None = None
    """How many parts of a sweep run at once on this machine; default: one per core, of trainings on a GPU one."""
    scheduler: str | None = None
    """The address of a Dask scheduler or Ray cluster, host:port; default: a cluster of this machine."""

    def validate(self) -> None:
        """Raise ValueError for a number that joblib does not take, or that no machine has processes for."""
        if self.jobs is not None and not 0 < abs(self.jobs) <= MOST_JOBS:
            raise ValueError(f"jobs must not be 0, and be in [-{MOST_JOBS}, {MOST_JOBS}], got {self.jobs}")


RUN = """Run a recipe: `posattn run RECIPE --help` shows what it does and its settings.

With --config FILE in place of RECIPE it runs the config.json of a run folder again, or YAML of the same form."""
FIELDS = r"\n(?=(?:Claims?|Command|Time|Expected)\b)"  # where a field of a recipe's header starts


class Chosen(NamedTuple):
    """The chosen recipe and the defaults of its flags."""

    recipe: str | None = None
    smoke: bool = False
    """Its smoke size."""
    stored: Stored | None = None
    """Settings from a file."""


def commands(chosen: Chosen = Chosen()) -> dict[str, Any]:  # noqa: B008  (never changed)
    """The commands by name, each as a type for tyro."""
    runs = {name: run_form(recipe, name, chosen) for name, recipe in sorted(recipes.RECIPES.items())}
    return {
        "list": Annotated[List, subcommand("list")],
        "run": Annotated[Any, subcommand("run", constructor=union(runs), description=RUN)],
        "report": Annotated[Report, subcommand("report")],
        **{command.name: work_form(command) for command in recipes.COMMANDS.values()},
        BENCH: run_form(recipes.RECIPES[SPEED], BENCH, chosen),
        "completion": Annotated[Completion, subcommand("completion")],
    }


def union(forms: dict[str, Any]) -> Any:
    """One of several subcommands."""
    return Union[tuple(forms.values())]  # noqa: UP007


def run_form(recipe: Recipe, name: str, chosen: Chosen) -> Any:
    """A recipe as the subcommand ``name``: the chosen one with its whole header as help."""
    settings, described = recipe.config(chosen.smoke), recipe.claim
    if recipe.name == chosen.recipe:
        settings, described = chosen.stored.settings if chosen.stored else settings, header(recipe)
    marked = subcommand(name, default=Run(settings, recipe=recipe.name), description=described)
    return Annotated[Run[type(settings)], marked]  # type: ignore[misc]


def work_form(command: Command) -> Any:
    """A top-level command as a subcommand."""
    described = subcommand(command.name, description=cleandoc(command.settings.__doc__ or ""))
    form: Any = LongWork if command.resumable else Work
    return Annotated[form[command.settings], described]


def header(recipe: Recipe) -> str:
    """The header of a recipe for ``--help``: its first line and a list of its fields, wrapped to the terminal.

    tyro keeps lines that start with a bullet or a space, and joins others.
    """
    title, _, body = cleandoc(recipe.config.__doc__ or "").partition("\n\n")
    width = shutil.get_terminal_size().columns
    fields = [
        textwrap.fill(" ".join(field.split()), width, initial_indent="- ", subsequent_indent="  ")
        for field in re.split(FIELDS, body)
    ]
    return "\n".join([title, *fields])
