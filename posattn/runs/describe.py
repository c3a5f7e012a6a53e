"""The content of config.json: the settings of a run, and the versions and device that produced it."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posattn.runs.device import device_name

FORMAT = "posattn run, version 1"  # this line of config.json marks a folder as a run
OF_THE_MACHINE = {"data_dir", "download", "workers", "tensorboard"}  # settings that change no number of a run
VERSIONED = ("posattn", "torch", "timm", "numpy", "scipy", "scikit-learn", "accelerate")


def describe(recipe: str, config: Any) -> dict[str, Any]:
    """The content of config.json."""
    settings = json.loads(json.dumps(asdict(config), allow_nan=False, default=str))  # a Path becomes text
    return {
        "format": FORMAT,
        "recipe": recipe,
        "config": settings,
        "seed": getattr(config, "seed", None),
        "command": shlex.join(["posattn", *sys.argv[1:]]),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in VERSIONED}},
        "git_commit": git_commit(),
        "device": device_name(),
        "started": now(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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


def git_commit() -> str | None:
    """The commit of the checkout that the package runs from; None if it is installed from elsewhere."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # an installed copy may be inside another project's checkout, whose commit is unrelated
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
