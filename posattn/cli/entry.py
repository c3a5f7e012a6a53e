"""Parses the arguments into a command."""

import argparse
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import posattn
from posattn import checks, recipes
from posattn.cli import actions
from posattn.cli.forms import BENCH, SPEED, Chosen, Completion, List, Report, Run, commands, union
from posattn.cli.parsing import parse_arguments
from posattn.recipes.stored import read_stored

DESCRIPTION = f"""{str(posattn.__doc__).splitlines()[0]}

The flag --version prints the version."""


def parse(arguments: Sequence[str]) -> tuple[Callable[[], None], bool]:
    """The command given by the arguments, and whether to show tracebacks.

    Raises ValueError naming a wrong flag and its value, SystemExit for --help.
    """
    arguments = list(arguments)
    if arguments == ["--version"]:
        return lambda: print("posattn", importlib.metadata.version("posattn")), False
    recipes.load()
    arguments, chosen = choose(arguments)
    known = commands(chosen)
    if arguments and not arguments[0].startswith("-"):
        checks.known("command", arguments[0], known)
    options = parse_arguments(union(known), arguments, DESCRIPTION)
    return lambda: act(options), getattr(options, "debug", False)


def choose(arguments: list[str]) -> tuple[list[str], Chosen]:
    """The recipe and its defaults, which are read before the other flags, and the arguments with the recipe named."""
    command, *rest = arguments or [""]
    if command not in ("run", BENCH):
        return arguments, Chosen()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--config", type=Path, nargs="?")
    given, _ = parser.parse_known_args(rest)
    stored = None if given.config is None else read_stored(given.config)
    if command == BENCH:
        recipe = SPEED
    elif rest and not rest[0].startswith("-"):
        recipe = recipes.find(rest[0]).name
    elif stored is not None:
        recipe = stored.recipe
        arguments = [command, recipe, *rest]
    elif {"-h", "--help"} & set(rest):
        return arguments, Chosen()
    else:
        raise ValueError(f"run which recipe? known: {', '.join(sorted(recipes.RECIPES))}")
    if stored is not None and stored.recipe != recipe:
        raise ValueError(f"{given.config} has settings of the recipe {stored.recipe}, not of {recipe}")
    if stored is not None and given.smoke:
        raise ValueError(f"--smoke and --config exclude each other: the size is that of {given.config}")
    return arguments, Chosen(recipe, given.smoke, stored)


def act(options: Any) -> None:
    """Run the command."""
    match options:
        case List():
            actions.list_known(options)
        case Report():
            actions.report(options)
        case Completion(shell):
            parse_arguments(union(commands()), ["--tyro-print-completion", shell], "")
        case Run():
            actions.run(options)
        case _:
            actions.work(options)
