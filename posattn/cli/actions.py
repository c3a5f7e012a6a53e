"""The actions of the commands. Each imports what it uses only when it runs, for a quick start."""

import importlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posattn import recipes, settings
from posattn.cli.forms import List, LongWork, Report, Run, Work
from posattn.cli.progress import shown_progress
from posattn.cli.tables import table, text
from posattn.recipes import Command, Recipe
from posattn.runs.page import printable
from posattn.vision.data.config import DATA_SETS

RUNS = Path("runs")


def list_known(options: List) -> None:
    """Print the known names, one per line."""
    out = Console(highlight=False)
    if options.what == "recipes":
        claims = Table(box=None, show_header=False)
        for name, recipe in sorted(recipes.RECIPES.items()):
            claims.add_row(f"[bold]{name}[/]", escape(recipe.claim))
        out.print(claims)
        return
    names = (
        importlib.import_module("timm").list_models("vit_posattn_*")
        if options.what == "models"
        else DATA_SETS
    )
    out.print("\n".join(sorted(names)), markup=False)


def run(options: Run[Any]) -> None:
    """Run a recipe, write its report, print its tables and the path of the report."""
    settings.check(options)
    from posattn.runs.engines import LOCAL, use_engine
    from posattn.runs.ranks import world_size

    if world_size() > 1 and options.backend not in LOCAL:
        raise ValueError(f"--backend {options.backend} is for one process, got {world_size()} of torchrun's")
    backend = "sequential" if world_size() > 1 else options.backend  # every rank takes part in every unit
    recipe = recipes.RECIPES[options.recipe]
    out = options.out or RUNS / (recipe.name + ("-smoke" if options.smoke else ""))
    with use_engine(backend, options.jobs, options.scheduler):
        perform(recipe, options, out, options.resume)


def work(options: Work[Any]) -> None:
    """Do a top-level command such as ``inspect``, write its report, print its tables and the path of the report."""
    settings.check(options)
    from posattn.runs.ranks import world_size

    command = recipes.COMMANDS[type(options.settings)]
    if world_size() > 1:
        raise ValueError(f"{command.name} runs in one process, got {world_size()} of torchrun's")
    out = options.out or RUNS / command.folder_name(options.settings)
    perform(command, options, out, options.resume if isinstance(options, LongWork) else None)


def perform(what: Recipe | Command, options: Work[Any], out: Path, resume: bool | None = None) -> None:
    """Do a job in a run folder. ``resume`` is None for one that cannot be resumed. Of several ranks, rank 0 reports."""
    from posattn.runs.environment import devices_text
    from posattn.runs.folder import open_shared
    from posattn.runs.ranks import is_writer, share

    how = {"resume": resume, "overwrite": options.overwrite}
    with (
        open_shared(out, what.name, options.settings, **how) as folder,
        shown_progress(is_writer()) as progress,
    ):
        with settings.naming_flags(options):
            result = share(what.job(options.settings, folder, progress))
        if is_writer():
            folder.finish(result | {"summary": result["summary"] + devices_text(folder)})
    if is_writer():
        report(Report(out))


def report(options: Report) -> None:
    """Write the report of a finished run; print its claims, its tables and where the page is."""
    from posattn.runs.folder import RunFolder

    result, out = RunFolder.reading(options.folder).result, Console(highlight=False)
    from posattn.runs.report.export import export
    from posattn.runs.report.html import build_report

    # first, for an export needs only to read the run, which may be on a read-only disk
    exported = export(options.folder, options.export) if options.export is not None else None
    try:
        page: Path | str = build_report(options.folder).resolve()
    except OSError as error:
        if exported is None:
            raise
        page = f"not written ({error})"
    for section in result["page"]:
        print_section(section, out)
    out.print(f"\nreport: {printable(str(page))}", soft_wrap=True, markup=False)
    if exported is not None:
        out.print(f"export: {printable(str(exported.resolve()))}", soft_wrap=True, markup=False)


def print_section(section: dict[str, Any], out: Console) -> None:
    """A section of a page on the terminal: its claim and its tables."""
    out.print(f"\n[bold]{text(section['title'])}.[/] {text(section['claim'])}")
    for item in section["items"]:
        if item["kind"] == "table":
            out.print(table(item, out), crop=False)
