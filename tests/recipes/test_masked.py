"""The masked recipe at its smoke setting, and what it measures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Generator

from posattn import cli
from posattn.recipes.masked.page import (
    ADAM,
    ENCODED,
    FORMS,
    LABELS,
    OBJECTIVES,
    OPTIMIZERS,
    RECONSTRUCTION,
    arm,
)
from posattn.recipes.masked.run import describe
from posattn.structure.partition import Partition
from posattn.theory.masked import MaskedBatch
from posattn.theory.student import PositionStudent


def test_the_smoke_run_finds_the_sets_without_labels(tmp_path: Path) -> None:
    cli.main(["run", "masked", "--smoke", "--jobs", "1", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    names = {arm(o, how, form) for o in OBJECTIVES for how in OPTIMIZERS for form in FORMS}
    assert set(result["arms"]) == names
    maps = load_file(tmp_path / "run" / "masked.safetensors")
    own = Partition.contiguous(16, 4).same & ~torch.eye(16, dtype=torch.bool)
    for name, found in result["arms"].items():
        assert len(found["mean"]["association"]) == len(result["step"])
        assert max(found["first"]["association"]) < 0.5, name
        if name.startswith(RECONSTRUCTION):
            assert min(found["last"]["association"]) > 0.6, name  # chance is 0.2
        if name.startswith(arm(RECONSTRUCTION, ADAM)):
            assert min(found["last"]["association"]) > 0.9, name
            assert min(found["last"]["learned"]) > 0.05, name
            inside = maps[name][own].mean() - maps[name][~own & ~torch.eye(16, dtype=torch.bool)].mean()
            assert inside > 0.1, name
    assert min(result["arms"][arm(LABELS, ADAM, ENCODED)]["last"]["learned"]) > 0.9


def test_the_attention_inside_and_the_share_explained_are_what_they_say(generator: Generator) -> None:
    """Each query attends to itself, and then to its set: the diagonal counts for neither measure of A."""
    partition = Partition([0, 1, 0, 1, 0, 1])
    model = PositionStudent(6, 6, 2, 2, "linear", generator=generator)
    model.scores.data = torch.where(partition.same, 2.0, 0.0).fill_diagonal_(50.0)
    model.value.data = torch.zeros(2, 2)
    patches = torch.randn(40, 6, 2, generator=generator)
    row = describe(model, RECONSTRUCTION, partition, MaskedBatch(patches, patches))
    assert row["association"] == pytest.approx(1.0)
    assert row["mass"] == pytest.approx(2 * 7.389056 / (2 * 7.389056 + 3), rel=1e-5)  # e²
    assert row["learned"] == pytest.approx(0.0, abs=1e-6)
    model.value.data = torch.eye(2)  # each query reads itself
    assert describe(model, RECONSTRUCTION, partition, MaskedBatch(patches, patches))["learned"] > 0.999
