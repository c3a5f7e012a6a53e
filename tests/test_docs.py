"""The pages of docs: their Python runs as written, their commands parse, timm's script finds the model they name."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from posattn import cli
from posattn.vision.convert.attention import ConvertedAttention
from posattn.vision.data.config import DataConfig

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
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
    converted = {
        number: sorted(block.attn.kinds)
        for number, block in enumerate(names["converted"].blocks)
        if isinstance(block.attn, ConvertedAttention)
    }
    assert converted == {0: [1], 5: [0, 2]}


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


def test_the_inspections_run() -> None:
    """With names that the page leaves to the reader: a model of 12 layers on a grid of 8 x 8, and images."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=24, num_heads=4)
    images = torch.rand(8, 3, 32, 32)
    names = {"model": vit.eval(), "loader": [images], "images": images, "before": vit, "after": vit}
    for body in blocks(ROOT / "docs/inspect.md", "python"):
        exec(compile(body, "inspect.md", "exec"), names)
    assert names["inspection"].maps(3).shape == (4, 65, 65)


@pytest.mark.parametrize(("page", "root"), [("theory.md", "tests/*/"), ("robustness.md", "")])
def test_tests_are_in_the_files_that_pages_name(page: str, root: str) -> None:
    file, missing = "", []
    for named, test in re.findall(
        r"`([\w/]*test_\w+\.py|…)(?:::(\w+))?`", (ROOT / "docs" / page).read_text()
    ):
        file = file if named == "…" else named
        sources = "".join(path.read_text() for path in ROOT.glob(root + file))
        if not sources or (test and f"def {test}(" not in sources):
            missing.append((file, test))
    assert missing == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "posattn"], ids=" ".join)
def test_commands_of_the_package_parse(command: list[str]) -> None:
    work, debug = cli.parse(command[1:])
    assert callable(work)
    assert not debug


SCRIPT = """
import argparse
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model, load_checkpoint

parser = argparse.ArgumentParser()
for flag in ("--data-dir", "--model", "--checkpoint", "--device"):
    parser.add_argument(flag)
args = parser.parse_args()
model = create_model(args.model, num_classes=2).to(args.device).eval()
load_checkpoint(model, args.checkpoint)
config = resolve_data_config(vars(args), model=model)
dataset = create_dataset("", root=args.data_dir, split="validation")
size = config["input_size"]
loader = create_loader(dataset, size, batch_size=3, use_prefetcher=False, num_workers=1, device=args.device)
outputs = [model(images).shape for images, _ in loader]
print(type(model).__name__, [tuple(shape) for shape in outputs])
"""


def test_timms_scripts_find_the_model(tmp_path: Path) -> None:
    """PyPI's timm has no scripts: this one takes validate.py's arguments and reads an ImageFolder as it does."""
    training, validation = (c for c in COMMANDS if c[0] == "python" and "--model" in c)
    # train.py imports it as the other line does
    assert training[training.index("--device-modules") + 1] == "posattn"
    (tmp_path / "validate.py").write_text(SCRIPT)
    for name in ("cats", "dogs"):
        (tmp_path / "DIR" / "val" / name).mkdir(parents=True)
        for i in range(2):
            Image.effect_noise((40, 30), 50).save(tmp_path / "DIR" / "val" / name / f"{i}.png")
    model = timm.create_model(validation[validation.index("--model") + 1], num_classes=2)
    torch.save(model.state_dict(), tmp_path / "FILE")
    done = subprocess.run(
        [sys.executable, *validation[1:]], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "VisionTransformerPosAttn [(3, 2), (1, 2)]", done.stderr
