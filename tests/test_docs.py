"""The pages of docs: their Python runs as written, their commands parse, timm's script finds the model they name."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posattn import cli
from posattn.vision.data.config import DataConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)
    for page in PAGES
    for body in blocks(page, "bash")
    for line in body.replace("\\\n", " ").splitlines()
]


def test_the_models_are_frozen_and_converted() -> None:
    names: dict = {}
    for body in blocks(ROOT / "docs/models.md", "python"):
        exec(compile(body, "models.md", "exec"), names)
    assert names["frozen"].patch_embed.grid_size == (12, 16)
    assert [hasattr(block.attn, "maps") for block in names["converted"].blocks] == [
        i in (0, 5) for i in range(12)
    ]


def test_the_script_trains_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (script,) = blocks(ROOT / "docs/images.md", "python")
    exec(compile(script, "images.md", "exec"), names)
    lines = [json.loads(line) for line in Path("runs/script/metrics.jsonl").read_text().splitlines()]
    assert [line["accuracy"] for line in lines if line["end_of_epoch"]] == [
        row["accuracy"] for row in names["log"].rows if "accuracy" in row
    ]
    assert lines[-1]["epoch"] == 2
    assert list(Path("runs/script/tensorboard/vit").iterdir())
    assert torch.equal(names["train_set"].images, DataConfig().load("train").images)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "posattn"], ids=" ".join)
def test_commands_of_the_package_parse(command: list[str]) -> None:
    work, debug = cli.parse(command[1:])
    assert callable(work)
    assert not debug


def test_timms_script_finds_the_model() -> None:
    """What ``--device-modules`` does is importlib.import_module of the name, in a process of its own."""
    (command,) = (c for c in COMMANDS if c[0] == "python")
    module, model = (command[command.index(flag) + 1] for flag in ("--device-modules", "--model"))
    code = (
        "import importlib, sys; importlib.import_module(sys.argv[1])\n"
        "from timm.models import create_model\n"
        "print(type(create_model(sys.argv[2], num_classes=10, drop_rate=0.0)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module, model], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "VisionTransformerPosAttn", done.stderr
