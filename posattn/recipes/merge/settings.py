"""The settings of `posattn merge`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from posattn.recipes import command
from posattn.settings import Several


def folder_name(config: "MergeConfig") -> str:
    """merged-RUN, by the folder of the first run."""
    return f"merged-{config.runs[0].absolute().name}"


@command(folder_name)
@dataclass(frozen=True)
class MergeConfig:
    """Pool runs of one recipe with equal settings, but different seeds or models, into one result and page.

    Nothing is trained. Of an unfinished run the parts that are finished are pooled."""

    runs: Positional[Several[Path]]
    """The run folders."""
    data_dir: Path | None = None
    """Where the files of a named set are on this machine; default: as in the run with the lowest seed."""
