"""`posattn compare` on two run folders of inspections."""

import json
from pathlib import Path

import pandas as pd
import pytest
from layouts import encoded, noise, write_folder

from posattn import cli
from posattn.runs.folder import RunFolder
from posattn.vision.inspect.compare import compare


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inspections of test_vit: two seeds over the same pictures, one over fewer, one of another size."""
    home = tmp_path_factory.mktemp("compare")
    write_folder(home / "pictures", {f"{i}.png": encoded(noise(3, 40, 40)) for i in range(6)})
    options = {
        "first": ["--seed", "0"],
        "second": ["--seed", "1"],
        "fewer": ["--limit", "4"],
        "larger": ["--img-size", "192"],
    }
    for name, flags in options.items():
        where = ["--images", str(home / "pictures"), "--out", str(home / name)]
        cli.main(["inspect", "test_vit", *where, *flags])
    return {name: home / name for name in options}


def test_two_folders_are_compared(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cli.main(["compare", str(folders["first"]), str(folders["second"]), "--out", str(out), "--shown", "2"])
    table, result = pd.read_csv(out / "comparison.csv"), json.loads((out / "result.json").read_text())
    first, second = (pd.read_csv(folders[name] / "table.csv") for name in ("first", "second"))
    pd.testing.assert_series_equal(table.difference, second.value - first.value, check_names=False)
    assert result["compare"]["paired"] == 6
    assert "the images are the same" in result["summary"]
    assert len(result["compare"]["shown"]) == 2
    shown = RunFolder.reading(out).load_arrays("maps")["head.0"]
    layer, head, _ = result["compare"]["shown"][0]
    maps = RunFolder.reading(folders["second"]).load_arrays("maps")[f"average.{layer}"].astype(float)[head]
    row = maps[1 + 55, 1:]  # of the patch at row 5, column 5
    assert shown.shape == (4, 10, 10)
    assert shown[1].ravel() ** 2 == pytest.approx(row / row.sum(), abs=1e-4)
    page = (out / "report.html").read_text()
    assert "Layer" in page
    assert page.count("<svg") == 2 * (len(result["compare"]["measures"]) - 1)  # distance_px is distance
    assert "paired over 6 groups" in " ".join(capsys.readouterr().out.split())


def test_in_python_folders_give_the_same(folders: dict[str, Path]) -> None:
    table = compare(folders["first"], folders["fewer"])
    assert table.attrs == {"paired": 0, "images": [6, 4]}
    first, fewer = (pd.read_parquet(folders[name] / "table.parquet") for name in ("first", "fewer"))
    pd.testing.assert_series_equal(
        table.stderr, (first.stderr**2 + fewer.stderr**2) ** 0.5, check_names=False
    )


def test_what_differs_in_its_grid_is_refused_and_nothing_is_written(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(folders["first"]), str(folders["larger"]), "--out", str(out)])
    assert stop.value.code == 2
    assert "differ in their grids by layer" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_what_is_no_inspection_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    cli.main(["compare", str(folders["first"]), str(folders["second"]), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="holds no inspection, but a run of compare"):
        compare(folders["first"], tmp_path / "out")
