"""The parts of `posattn inspect`: which images it takes and keeps, and what it says of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.progress import Progress

from posattn.recipes.inspect.run import Counted, load_subject
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
    models = SimpleNamespace(names=["m"], data=lambda **_: held, model=lambda *_, **__: torch.nn.Identity())
    monkeypatch.setattr("posattn.recipes.inspect.run.TrainedModels", lambda folder: models)
    subject = load_subject(InspectConfig(str(tmp_path), "digits", checkpoint="m", limit=limit))
    chosen = list(Pictures("digits", limit=limit)._chosen)
    assert torch.equal(torch.cat(list(subject.batches)), images[chosen] / 127.5 - 1)
    assert subject.total == len(chosen)
