"""The parts of `posattn inspect`: which images it takes and keeps, and what it says of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from layouts import encoded, noise, write_folder
from rich.progress import Progress

from posattn import cli
from posattn.recipes.inspect.run import Counted, load_subject, stacked
from posattn.recipes.inspect.settings import InspectConfig
from posattn.vision.data.pictures import Pictures


def test_as_many_examples_are_kept_as_are_asked_for_in_every_pass() -> None:
    images = torch.arange(10.0)[:, None, None, None]
    progress = Progress(disable=True)
    for examples, kept in ((1, 1), (4, 4), (7, 7), (12, 10)):
        batches = Counted(images.split(4), 10, examples, progress, progress.add_task("images"))
        for _ in range(2):
            assert torch.equal(torch.cat(list(batches)), images)
            assert torch.equal(torch.cat(batches.first), images[:kept])
            assert all(map(len, batches.first))  # views of no images would keep all batches in memory


@pytest.mark.parametrize("limit", [None, 1, 4, 7, 300, 1000])
def test_a_run_folder_gives_images_evenly_spaced_as_other_models_have_them(
    limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.arange(360).remainder(256).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "images"}))
    held = SimpleNamespace(images=images)
    parts = {"data": lambda **_: held, "model": lambda *_, **__: torch.nn.Identity()}
    models = SimpleNamespace(names=["m"], check_shape=lambda *_: [], **parts)
    monkeypatch.setattr("posattn.recipes.inspect.run.TrainedModels", lambda folder: models)
    subject = load_subject(InspectConfig(str(tmp_path), "digits", checkpoint="m", limit=limit))
    chosen = list(Pictures("digits", limit=limit)._chosen)
    assert torch.equal(torch.cat(list(subject.batches)), images[chosen] / 127.5 - 1)
    assert subject.total == len(chosen)


class OfARun:
    """The models of a run folder, as far as an inspection reads it, and a set without splits."""

    def __init__(self, folder: Path) -> None:
        self.run, self.names, self.settings = folder, ["m"], {"data": {"data": "own"}}

    def data(self, **changes: object) -> SimpleNamespace:
        return SimpleNamespace(images=torch.zeros(7, 1, 2, 2, dtype=torch.uint8), divided=True)

    def check_shape(self, *_: object) -> list[str]:
        return []

    def model(self, *_: object, **__: object) -> torch.nn.Module:
        return torch.nn.Identity()


def test_a_model_of_a_run_is_inspected_on_a_set_of_which_a_part_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "images"}))
    monkeypatch.setattr("posattn.recipes.inspect.run.TrainedModels", OfARun)
    other, own = (
        load_subject(InspectConfig(str(tmp_path), name, checkpoint="m")) for name in ("all/", "own")
    )
    assert other.notes == ["all/ has no test split: inspected on 7 images of a fixed fifth of it"]
    assert own.notes == []
    for name in ("list.txt", "1.png"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=rf"is inspected on a set: .*, got .*{name}"):
            load_subject(InspectConfig(str(tmp_path), str(tmp_path / name), checkpoint="m"))


def test_what_qualifies_an_inspection_is_printed_and_on_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {f"{i}.png": encoded(noise(3, 40, 40)) for i in range(2)}
    write_folder(tmp_path / "pictures", {**pictures, "8.png": b"cut", "9.txt": b"text"})
    out = ["--images", str(tmp_path / "pictures"), "--layers", "0", "--out", str(tmp_path / "out")]
    cli.main(["inspect", "test_vit", *out, "--skip-corrupt"])
    notes = ["ignored, no pictures: 1 of .txt", "skipped, cannot be decoded: 1 of 3 pictures"]
    said, page = capsys.readouterr().err, (tmp_path / "out" / "report.html").read_text()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["notes"] == notes
    for note in notes:
        assert note in said
        assert note in page


def test_images_of_several_shapes_are_named() -> None:
    """Some processors of transformers do not crop."""
    with pytest.raises(ValueError, match="must have one size, got 4x6 and 6x4 after the model's own"):
        stacked([torch.zeros(3, 4, 6), torch.zeros(3, 6, 4)])
