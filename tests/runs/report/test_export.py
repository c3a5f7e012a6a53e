"""A finished run as Markdown beside its figures and numbers."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from posattn import cli
from posattn.recipes.demo.settings import DemoConfig
from posattn.runs.folder import open_run
from posattn.runs.page import Gallery, Lines, PictureRows, Section, Table, to_plain


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run = open_run(tmp_path / "run", "demo", DemoConfig())
    run.save_tensors(
        "toy", {"maps": torch.eye(3)[None], "pictures": torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)}
    )
    items = [
        Lines("A curve", "toy.x", {"a": "toy.y"}),
        Gallery("Maps", "toy:maps", ["head 1"]),
        PictureRows("Strips", "toy:pictures", ["before", "after"]),
        Table("A table", ["k", "accuracy"], [["1", "0.5 ± 0.1"]], "Two seeds."),
    ]
    page = to_plain([Section("Toy", "It is so.", items)])
    run.finish({"title": "Title", "summary": "Summary.", "toy": {"x": [1, 2], "y": [3.0, 4.0]}, "page": page})
    return tmp_path / "run"


def test_the_page_is_exported_with_what_made_it(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept" / "toy"
    cli.main(["report", str(finished), "--export", str(out)])
    text = (out / "README.md").read_text()
    assert text.startswith("# Title\n\nSummary.\n\n    posattn")
    assert "| k | accuracy |\n| --- | --- |\n| 1 | 0.5 ± 0.1 |" in text
    kept = json.loads((out / "result.json").read_text())
    assert kept["result"] == {"toy": {"x": [1, 2], "y": [3.0, 4.0]}}
    assert kept["started"] <= kept["finished"]
    assert kept["finished"] in text
    for name in ("a-curve.svg", "maps-1.png", "strips-1.png", "strips-2.png"):
        assert f"({name})" in text or f'src="{name}"' in text
        assert (out / name).stat().st_size > 0
    svg = (out / "a-curve.svg").read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" not in svg


def test_an_unfinished_run_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run(tmp_path / "run", "demo", DemoConfig())
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path / "run"), "--export", str(tmp_path / "out")])
    assert "unfinished run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
