"""The content of config.json: the settings of a run, and the versions and device that produced it."""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from posattn.runs.environment import environment
from posattn.runs.record import FORMAT, now

OF_THE_MACHINE = {"data_dir", "download", "workers", "tensorboard"}  # settings that change no number of a run


def describe(recipe: str, config: Any) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "format": FORMAT,
        "recipe": recipe,
        "config": plain(asdict(config)),
        "seed": getattr(config, "seed", None),
        "command": shlex.join(["posattn", *sys.argv[1:]]),
        **environment(),
        "started": now(),
    }


def plain(value: Any) -> Any:
    """A value as JSON holds it; a path becomes text."""
    return json.loads(json.dumps(value, allow_nan=False, default=str))


def with_newer(stored: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """Stored settings, and those that are newer than they at the default of their class.

    A new setting changes nothing at its default, so this is what the run had. Its recipe may have another value since.
    """
    filled = dict(stored)
    field: Any
    for field in fields(settings):
        value, name = getattr(settings, field.name), field.name
        if is_dataclass(value) and isinstance(filled.get(name), dict):
            filled[name] = with_newer(filled[name], value)
        elif name not in filled and field.default is not MISSING:
            filled[name] = plain(field.default)
        elif name not in filled and field.default_factory is not MISSING:
            filled[name] = plain(asdict(field.default_factory()))
    return filled


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings in which two descriptions of a run differ, but for those of the machine, one line each."""
    if not prefix:
        old, new = ({k: d.get(k) for k in ("recipe", "config")} for d in (old, new))
    lines: list[str] = []
    for key in sorted({*old, *new} - OF_THE_MACHINE):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key} was {a!r}, is {b!r}")
    return lines
