"""The command line: list, run, report, inspect, bench."""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import timm
import tyro
from joblib import parallel_config
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import posattn
from posattn.recipes import RECIPES, Recipe, find, load
from posattn.recipes.inspect.run import inspect_into
from posattn.recipes.inspect.settings import InspectConfig
from posattn.runs.folder import RunFolder, open_run
from posattn.runs.report.export import export
from posattn.runs.report.html import build_report
from posattn.runs.stopping import Stopped, stoppable
from posattn.vision.data.config import DATA_SETS

FAILED = 2
BENCH = "bench"  # short for: run speed
ConfigT = TypeVar("ConfigT")
load()


@dataclass(frozen=True)
class List:
    """What there is: recipes, timm models of this package, data sets."""

    what: tyro.conf.Positional[Literal["recipes", "models", "data"]] = "recipes"
    """What to list."""


@dataclass(frozen=True)
class Run(Generic[ConfigT]):
    """Options of `posattn run RECIPE`, beside the settings of the recipe itself."""

    settings: Annotated[ConfigT, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run folder; left out, runs/RECIPE or runs/RECIPE-smoke."""
    smoke: bool = False
    """The recipe at a size that ends in seconds."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""
    overwrite: bool = False
    """Replace the run that is there."""
    backend: str = "loky"
    """Where sweeps run: a joblib backend, such as loky, threading, dask or ray."""
    jobs: int = -1
    """How many parts of a sweep run at once; -1: one a core."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class NoRecipe:
    """Run a recipe: `posattn run RECIPE --help` shows its settings."""


@dataclass(frozen=True)
class Report:
    """Rebuild the report of a finished run, without retraining."""

    folder: tyro.conf.Positional[Path]
    """The run folder."""
    export: Path | None = None
    """Also write the page as Markdown, with its figures and numbers, into this folder."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Inspect:
    """Attention statistics of a ViT over images: a table with error bars, and a page to look at."""

    model: tyro.conf.Positional[str]
    """A timm model, hf-hub:NAME, or a run folder."""
    images: str
    """A folder of pictures, a parquet file, or a name of `posattn list data`."""
    checkpoint: str | None = None
    """The weights of a timm model (left out: its random start), or which model of the run folder."""
    data_dir: Path | None = None
    """Where the files of a named set are."""
    limit: int | None = None
    """Take so many images, evenly spaced; left out, all."""
    out: Path | None = None
    """The folder to write; left out, runs/inspect-MODEL."""
    overwrite: bool = False
    """Replace what is there."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Bench:
    """Time our models beside those they would replace; the same as `posattn run speed`."""


def list_known(options: List) -> None:
    """Print the known names, a line each."""
    out = Console(highlight=False)
    if options.what == "recipes":
        table = Table(box=None, show_header=False)
        for name, recipe in sorted(RECIPES.items()):
            table.add_row(f"[bold]{name}[/]", recipe.claim)
        out.print(table)
    else:
        names = timm.list_models("vit_posattn_*") if options.what == "models" else sorted(DATA_SETS)
        out.print("\n".join(names))


def run(recipe: Recipe, options: Run[Any]) -> None:
    """Run the recipe, write its report, print its tables and the path of the report."""
    out = options.out or Path("runs") / (recipe.name + ("-smoke" if options.smoke else ""))
    how = {"resume": options.resume, "overwrite": options.overwrite}
    backend = parallel_config(use_backend(options.backend), n_jobs=options.jobs)
    with open_run(out, recipe.name, options.settings, **how) as folder, progress_bar() as progress, backend:
        folder.finish(recipe.job(options.settings, folder, progress))
    report(Report(out))


def inspect(options: Inspect) -> None:
    """Inspect a model into a folder, and write its page."""
    out = options.out or Path("runs") / f"inspect-{Path(options.model).name.replace(':', '-')}"
    given = {f.name: getattr(options, f.name) for f in fields(InspectConfig) if hasattr(options, f.name)}
    config = InspectConfig(**given)
    with open_run(out, "inspect", config, overwrite=options.overwrite) as folder, progress_bar() as progress:
        inspect_into(config, folder, progress)
    report(Report(out))


def use_backend(name: str) -> str:
    """A joblib backend by name; Ray's registers itself only when asked. ImportError where it is not installed."""
    if name == "ray":
        importlib.import_module("ray.util.joblib").register_ray()
    return name


def report(options: Report) -> None:
    """Write the report of a finished run; print its claims, its tables and where the page is."""
    page, out = build_report(options.folder), Console(highlight=False)
    for section in RunFolder.reading(options.folder).result["page"]:
        print_section(section, out)
    out.print(f"\nreport: {page.resolve()}", soft_wrap=True)
    if options.export is not None:
        out.print(f"export: {export(options.folder, options.export).resolve()}", soft_wrap=True)


def print_section(section: dict[str, Any], out: Console) -> None:
    """A section of a page on the terminal: its claim and its tables."""
    out.print(f"\n[bold]{section['title']}.[/] {section['claim']}")
    for item in section["items"]:
        if item["kind"] == "table":
            table = Table(*item["columns"])
            for row in item["rows"]:
                table.add_row(*row)
            out.print(table)


def progress_bar() -> Progress:
    """A bar on standard error, with counts and time left; silent where that is no terminal."""
    counts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*counts, *times, console=console, disable=not console.is_terminal)


def parse(arguments: Sequence[str]) -> tuple[Callable[[], None], bool]:
    """The command that the arguments ask for, and whether to debug. SystemExit where they ask for help or err."""
    if arguments[:1] == [BENCH]:
        arguments = ["run", "speed", *arguments[1:]]
    if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        recipe = find(arguments[1])
        settings = recipe.config("--smoke" in arguments)
        header = (recipe.config.__doc__ or "").strip()
        options = parse_options(
            Run[type(settings)],  # type: ignore[misc]
            arguments[2:],
            prog=f"posattn run {recipe.name}",
            default=Run(settings),
            description=header,
        )
        return lambda: run(recipe, options), options.debug
    commands = (
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[NoRecipe, tyro.conf.subcommand("run")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Bench, tyro.conf.subcommand(BENCH)]
    )
    options = parse_options(commands, arguments, prog="posattn", description=posattn.__doc__)
    if isinstance(options, NoRecipe):
        raise ValueError(f"run which recipe? known: {', '.join(sorted(RECIPES))}")
    if isinstance(options, Report):
        return lambda: report(options), options.debug
    if isinstance(options, Inspect):
        return lambda: inspect(options), options.debug
    return lambda: list_known(options), False


def parse_options(form: Any, arguments: Sequence[str], **kwargs: Any) -> Any:
    """tyro's parser, with what it says of an error in one line instead of a box. Raises ValueError on one."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(form, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **kwargs)
    except SystemExit as stop:
        if not stop.code:
            raise
        body = said.getvalue().split("───\n", 1)[-1].split("│ ──")[0]  # the box between title and rule
        raise ValueError(" ".join(body.replace("│", " ").split())) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. An error is one line on standard error and exit status 2; --debug shows the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        with stoppable():
            command, debug = parse(arguments)
            command()
    except (Stopped, Exception) as error:
        if debug:
            raise
        print(f"posattn: {one_line(error)}", file=sys.stderr)
        sys.exit(error.code if isinstance(error, Stopped) else FAILED)


def one_line(error: BaseException) -> str:
    """What is said of an error: its message and its notes; its kind too where it is none that bad input causes."""
    expected = isinstance(error, ValueError | TypeError | OSError | FloatingPointError | Stopped)
    kind = "" if expected else f"{type(error).__name__} "
    return " ".join([kind, str(error), *getattr(error, "__notes__", [])]).strip().replace("\n", " ")
