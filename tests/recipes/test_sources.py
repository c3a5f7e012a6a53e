"""What models of a run folder are shown again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layouts import encoded, write_folder

from posattn.recipes.convert.models import with_weights
from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import load_labelled
from posattn.recipes.images.settings import ImagesConfig
from posattn.recipes.kit.classifiers import build, weights_name
from posattn.recipes.kit.settings import SMALL
from posattn.recipes.kit.sources import TrainedModels
from posattn.runs.folder import open_run
from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.data.config import DataConfig
from posattn.vision.training.config import TrainConfig


def off(images: torch.Tensor, others: torch.Tensor) -> int:
    return int((images.int() - others.int()).abs().max())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("height", "most"), [(48, 1), (60, 4)])  # half a pixel of a ramp of 60 is 3 levels
def test_pictures_are_cropped_as_the_run_cropped_them(
    height: int, most: int, stream: bool, tmp_path: Path
) -> None:
    ramp = torch.linspace(0, 255, height).round().to(torch.uint8)[:, None].expand(3, height, 48)
    pictures = tmp_path / "pictures"
    for split in ("train", "val"):
        write_folder(pictures, {f"{split}/{kind}/{n}.png": encoded(ramp) for kind in "ab" for n in range(4)})
    data = DataConfig(str(pictures), image_size=32, stream=stream)
    config = ImagesConfig(
        data=data, models=("ViT",), size=SMALL, seeds=1, train=TrainConfig(epochs=1, warmup_epochs=0.5)
    )
    tested = data.load("test")
    expected, _ = next(iter(tested.batches([torch.arange(8)])))
    name = weights_name("ViT", 0)
    run = open_run(tmp_path / "run", "images", config)
    run.save_tensors(name, build(SMALL, "ViT", 0, tested).state_dict())
    run.finish({"title": "", "summary": "", "page": []})
    inspected = TrainedModels(tmp_path / "run").data().images
    converting = ConvertConfig(str(tmp_path / "run"), str(pictures), labels=True)
    converted = load_labelled(converting, adapter_of(with_weights(converting)), "test").images
    whole = replace(data, stream=False).load("test").images
    assert (off(whole, expected) > 10) == stream
    assert off(inspected, expected) <= most
    assert off(converted, expected) <= most
