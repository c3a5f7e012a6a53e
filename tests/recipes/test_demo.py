"""The main job at its smoke setting: every room is walked through, and the result holds what the page shows."""

import json
from pathlib import Path

import pytest

from posattn import cli
from posattn.runs.page import lookup


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "demo"
    cli.main(["run", "demo", "--smoke", "--jobs", "1", "--out", str(out)])
    return out


def test_the_run_folder_is_complete(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "result.json", "report.html"} <= names
    allowed = {".json", ".jsonl", ".html", ".safetensors"}
    shown = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    assert {file.suffix for file in shown} <= allowed


def test_the_report_is_one_offline_file(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    for section in json.loads((folder / "result.json").read_text())["page"]:
        assert section["title"] in html
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert "https://" not in html
    assert 'src="data:image/png' in html
    assert json.loads((folder / "config.json").read_text())["command"] in html


def test_every_figure_finds_its_numbers(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    figures = [item for section in result["page"] for item in section["items"] if item["kind"] == "lines"]
    assert len(figures) >= 4
    for figure in figures:
        for label, place in figure["y"].items():
            x = figure["x"][label] if isinstance(figure["x"], dict) else figure["x"]
            assert len(lookup(result, place)) == len(lookup(result, x))


def test_the_report_is_rebuilt_from_the_folder_alone(folder: Path) -> None:
    page = folder / "report.html"
    before = page.read_text()
    page.unlink()
    cli.main(["report", str(folder)])
    assert page.read_text() == before
