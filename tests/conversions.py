"""`posattn convert` in this process."""

from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

from posattn.recipes.convert.run import run
from posattn.recipes.convert.settings import ConvertConfig
from posattn.runs.folder import RunFolder, open_run

Configure = Callable[..., ConvertConfig]


def convert(config: ConvertConfig, out: Path, resume: bool = False) -> RunFolder:
    with open_run(out, "convert", config, resume=resume) as folder, Progress(disable=True) as progress:
        folder.finish(run(config, folder, progress))
    return folder
