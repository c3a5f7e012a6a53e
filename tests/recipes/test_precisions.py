"""The trainings of one run are in one precision, whichever device each of them is on."""

from pathlib import Path

import pytest

from posattn import cli
from posattn.recipes.kit.classifiers import check_models
from posattn.recipes.kit.settings import ORIGINAL, RESNET, SMALL, ImageTraining
from posattn.runs.device import Choice
from posattn.runs.folder import METRICS
from posattn.vision.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("unchecked")  # trainings, which test_flags.py runs checked


@pytest.mark.parametrize("recipe", ["images", "shuffle"])
def test_a_run_does_not_go_on_in_another_precision(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed on a device that chooses another one, with a training left to do."""
    options = [
        "run",
        recipe,
        "--smoke",
        "--models",
        "ViT",
        "--seeds",
        "2",
        "--train.epochs",
        "1",
        "--train.warmup-epochs",
        "0.5",
    ]
    options += ["--train-images", "64", "--backend", "sequential", "--out", str(tmp_path)]
    choice = "bfloat16"
    for module in ("recipes.kit.classifiers", "vision.training.state", "vision.training.logs"):
        monkeypatch.setattr(f"posattn.{module}.choose_precision", lambda *_: Choice(choice, "as it is"))
    cli.main(options)
    lines = (tmp_path / METRICS).read_text().splitlines(keepends=True)
    units = [line for line in lines if '"event": "unit"' in line and ".safetensors" in line]
    (tmp_path / METRICS).write_text("".join(line for line in lines if line != units[-1]))
    (tmp_path / "result.json").unlink()
    choice = "float32"
    with pytest.raises(SystemExit):
        cli.main([*options, "--resume"])
    said = capsys.readouterr().err
    assert "trainings differ in precision: " in said
    assert "ViT-0 in bfloat16" in said
    assert "ViT-1 in float32; set --train.precision from the start" in said
    choice = "bfloat16"
    cli.main([*options, "--resume"])


def test_a_model_that_cannot_be_trained_in_a_precision_is_refused_before_any_is() -> None:
    """The ResNet shrinks digits to one pixel."""
    config = ImageTraining(size=SMALL, train=TrainConfig(precision="bfloat16"))
    check_models(config, [ORIGINAL])
    with pytest.raises(ValueError, match="over one pixel is wrong on a CPU; train with precision float32"):
        check_models(config, [ORIGINAL, RESNET])
