"""docs/convert-models.md says what becomes of the models of today; a sample of its lines is run again here."""

from pathlib import Path

import pytest
from converted_models import (
    HEADER,
    OF_TIMM,
    OF_TRANSFORMERS,
    row_of_timm,
    row_of_torchvision,
    row_of_transformers,
)

PAGE = (Path(__file__).parents[3] / "docs" / "convert-models.md").read_text()
CHEAP = ["DeiT, distilled", "DINOv3", "CLIP tower", "ViT, differential attention", "SAM", "Swin", "ResNet"]


def test_the_page_has_a_line_for_each_family() -> None:
    assert PAGE.startswith(HEADER)
    told = {tuple(line.split(" | ")[:2]) for line in PAGE.removeprefix(HEADER).splitlines()}
    assert {("| timm", family) for family in OF_TIMM} <= told
    assert {("| transformers", family) for family in OF_TRANSFORMERS} <= told


@pytest.mark.parametrize("family", CHEAP)
def test_a_line_is_what_a_conversion_gives(family: str) -> None:
    assert row_of_timm(family) in PAGE.splitlines()


def test_lines_of_other_libraries() -> None:
    lines = PAGE.splitlines()
    assert row_of_torchvision() in lines
    for family in ("ViT", "DINOv2, registers", "CLIP vision"):
        assert row_of_transformers(family) in lines
