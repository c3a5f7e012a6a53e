"""docs/images.md: its script runs as written, its commands parse, timm's script finds the model it names."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from posattn import cli
from posattn.data.config import DataConfig

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/images.md").read_text()
(SCRIPT,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for body in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in body.splitlines()
]


def test_the_script_trains_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(SCRIPT, "images.md", "exec"), names)
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
