"""Files and folders of somebody else are left as they are, and places that can hold no run are named."""

import os
from pathlib import Path

import pytest
import torch
from toy_runs import Config, finished

from posattn.runs.folder import RunFolder, open_run


def test_a_file_of_somebody_else_is_moved_aside_and_not_replaced(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "run" / "maps.safetensors").write_text("mine")
    with open_run(tmp_path / "run", "toy", Config(), overwrite=True) as run:
        run.save_tensors("maps", {"a": torch.ones(2)})
        run.finish({})
    assert (tmp_path / "run" / "maps.safetensors.kept").read_text() == "mine"
    assert torch.equal(RunFolder(tmp_path / "run").load_tensors("maps")["a"], torch.ones(2))


def test_a_folder_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="not empty and holds no run"):
            open_run(tmp_path, "toy", Config(), **flags)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    "config", ['{"model_type": "vit", "hidden_size": 768}', "not JSON", "[]", '{"recipe": "toy"}']
)
def test_a_config_of_somebody_else_makes_no_run(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_text("weights")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="not empty and holds no run"):
            open_run(tmp_path, "toy", Config(), **flags)
    with pytest.raises(ValueError, match="holds no run"):
        RunFolder.reading(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_a_link_in_the_place_of_the_owners_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".posattn-owner").symlink_to("../precious")
    finished(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "keep"


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_run(tmp_path / "file" / "run", "toy", Config())


def test_places_that_can_hold_no_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is not a folder"):
        finished(tmp_path / "file")
    with pytest.raises(ValueError, match=r"must be UTF-8, got .*caf\\udce9"):
        finished(tmp_path / "caf\udce9")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match="run: the working directory has been deleted"):
        finished(Path("run"))


def test_what_was_moved_aside_stays_when_it_happens_again(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    for text in ("first", "second"):
        with open_run(tmp_path / "run", "toy", Config(), overwrite=True) as run:
            run.finish({})  # a run without that file
        (tmp_path / "run" / "maps.safetensors").write_text(text)
        with open_run(tmp_path / "run", "toy", Config(), overwrite=True) as run:
            run.save_tensors("maps", {"a": torch.ones(2)})
            run.finish({})
    aside = sorted((tmp_path / "run").glob("maps.safetensors.kept*"))
    assert [file.read_text() for file in aside] == ["first", "second"]
