"""What computes a run: device, versions and commit, where it was started and wherever it goes on."""

import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posattn.runs.device import THREADS, device_name
from posattn.runs.record import RunFolder

ENVIRONMENT = "environment"  # the event
VERSIONED = ("posattn", "torch", "timm", "numpy", "scipy", "scikit-learn", "accelerate")

Environment = dict[str, Any]


def environment() -> Environment:
    """Device, versions and commit of this process."""
    return {
        "device": device_name(),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in VERSIONED}},
        "git_commit": git_commit(),
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that the package was imported from; None if it is installed from elsewhere."""
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


def note_environment(run: RunFolder, mine: Environment) -> None:
    """Record where a part of a run is computed, unless that is known."""
    known = (parts_of(each) for each in known_environments(run))
    if parts_of(mine) not in known:
        run.log(ENVIRONMENT, **{name: mine[name] for name in ("device", "versions", "git_commit")})


def known_environments(run: RunFolder) -> list[Environment]:
    """Where a run was started, which of merged runs computes nothing, and where it went on."""
    config = run.config
    return [*([] if "merged_from" in config else [config]), *run.events(ENVIRONMENT)]


def environments(run: RunFolder) -> list[Environment]:
    """Every environment that computed a part of a run, the first one first."""
    return known_environments(run) or [run.config]


def parts_of(environment: Environment) -> tuple[Any, ...]:
    """What tells environments apart."""
    return machine(environment["device"]), environment["versions"], environment["git_commit"]


def machine(device: str) -> str:
    """The name of a device without its number of threads."""
    return device.partition(THREADS)[0]


def devices(run: RunFolder) -> list[str]:
    """The devices that computed a run; those that differ in their threads alone count once."""
    named: dict[str, str] = {}
    for each in environments(run):
        named.setdefault(machine(each["device"]), each["device"])
    return list(named.values())


def devices_text(run: RunFolder) -> str:
    """A sentence for the summary of a run of several devices, else empty."""
    if len(several := devices(run)) == 1:
        return ""
    return f" Computed on {len(several)} devices, whose seconds do not compare: {'; '.join(several)}."


def made_on(run: RunFolder) -> dict[str, Any]:
    """What computed a run, as text for pages: ``device``, ``commit`` and ``versions`` by name."""
    found = environments(run)
    names = dict.fromkeys(name for each in found for name in each["versions"])
    return {
        "device": "; ".join(devices(run)),
        "commit": listed(each["git_commit"] or "installed from a package" for each in found),
        "versions": {name: listed(str(each["versions"].get(name)) for each in found) for name in names},
    }


def listed(values: Iterable[str]) -> str:
    """Values as text, each once."""
    return " and ".join(dict.fromkeys(values))
