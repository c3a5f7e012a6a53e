"""The content of config.json: the settings of a run, and the versions and device that produced it."""

import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

from posattn.runs.environment import environment
from posattn.runs.record import FORMAT, now

OF_THE_MACHINE = {"data_dir", "download", "workers", "tensorboard"}  # settings that change no number of a run


def describe(recipe: str, config: Any) -> dict[str, Any]:
    """The content of config.json."""
    settings = json.loads(json.dumps(asdict(config), allow_nan=False, default=str))  # a Path becomes text
    return {
        "format": FORMAT,
        "recipe": recipe,
        "config": settings,
        "seed": getattr(config, "seed", None),
        "command": shlex.join(["posattn", *sys.argv[1:]]),
        **environment(),
        "started": now(),
    }


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
