"""docs/models.md: its Python runs, its commands parse, and timm's scripts find the models by a module's name."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from posattn import cli

TEXT = (Path(__file__).parents[1] / "docs/models.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, body in BLOCKS
    if language == "bash"
    for line in body.splitlines()
]


def test_python_blocks_run_one_after_the_other() -> None:
    names: dict = {}
    for body in (body for language, body in BLOCKS if language == "python"):
        exec(compile(body, "models.md", "exec"), names)
    assert names["frozen"].patch_embed.grid_size == (12, 16)
    assert [hasattr(block.attn, "maps") for block in names["converted"].blocks] == [
        i in (0, 5) for i in range(12)
    ]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "posattn"], ids=" ".join)
def test_commands_of_the_package_parse(command: list[str]) -> None:
    work, debug = cli.parse(command[1:])
    assert callable(work)
    assert not debug


def test_named_models_exist() -> None:
    """What ``--device-modules posattn`` does is importlib.import_module("posattn"), in a process of its own."""
    (command,) = (c for c in COMMANDS if c[0] == "python")
    module, model = (command[command.index(flag) + 1] for flag in ("--device-modules", "--model"))
    code = (
        "import importlib, sys; importlib.import_module(sys.argv[1])\n"
        "from timm.models import create_model\n"
        "print(type(create_model(sys.argv[2], num_classes=10, drop_rate=0.0)).__name__)"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, module, model], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "VisionTransformerPosAttn", done.stderr
