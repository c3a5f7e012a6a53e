"""The structured-vit recipe at its smoke setting, and the models it trains."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Generator

from posattn import cli
from posattn.recipes.structured_vit.page import MEASURES, POSITIONAL, VIT
from posattn.recipes.structured_vit.run import TokenViT, gram
from posattn.recipes.structured_vit.settings import Model, StructuredVitConfig, Task
from posattn.structure.partition import Partition
from posattn.theory.tracking import association_of_others
from posattn.vision.models.vision_transformer_posattn import VisionTransformerPosAttn

CONFIG = StructuredVitConfig(Task(12, 3, 5, 0.5), Model(16, 2, 2))


def test_the_smoke_run_trains_both_and_measures_them_from_the_start(tmp_path: Path) -> None:
    cli.main(["run", "structured-vit", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["models"]) == {VIT, POSITIONAL}
    assert result["step"][0] == 0
    for name, found in result["models"].items():
        assert set(found["mean"]) >= set(MEASURES)
        assert found["mean"]["accuracy"][-1] > found["mean"]["accuracy"][0] + 0.2
        assert all(0 <= value <= 1 for value in found["mean"]["gram"])
        gram_map, attention = load_file(tmp_path / "run" / "structured.safetensors")[name]
        assert torch.allclose(gram_map, gram_map.T)
        assert attention.sum(-1) == pytest.approx(torch.ones(16), abs=1e-2)
    # a content-based attention finds the sets without positions: they carry the same sign
    assert result["models"][VIT]["mean"]["attention"][-1] > 0.8


@pytest.mark.parametrize("kind", [VisionTransformer, VisionTransformerPosAttn])
def test_tokens_are_read_linearly_and_in_their_order(
    kind: type[VisionTransformer], generator: Generator
) -> None:
    model = TokenViT(kind, CONFIG).eval()
    patches = torch.randn(4, 12, 5, generator=generator)
    projection = model.vit.patch_embed.proj
    embedded = model.vit.patch_embed(patches.mT.unsqueeze(2))
    weight = projection.weight.reshape(16, 5)
    assert torch.allclose(embedded, patches @ weight.T + projection.bias, atol=1e-5)
    assert model(patches).shape == (4,)
    before, maps = model(patches), model.average_attention(patches)
    assert maps.shape == (2, 2, 12, 12)
    assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(model(patches), before, atol=1e-6)  # measuring leaves the model as it was


def test_planted_encodings_show_in_the_gram_matrix(generator: Generator) -> None:
    partition = Partition.random(12, 3, generator=generator)
    model = TokenViT(VisionTransformer, CONFIG)
    model.vit.pos_embed.data[0] = torch.eye(4, 16)[partition.labels] + 5.0
    assert association_of_others(gram(model), partition) == pytest.approx(1.0)
    assert gram(model).diagonal().tolist() == [0.0] * 12
