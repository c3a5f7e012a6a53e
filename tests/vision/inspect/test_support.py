"""docs/inspect-models.md says what the models of today give; a sample of its lines is run again here."""

from pathlib import Path

import pytest
from inspected_models import HEADER, TIMM, TRANSFORMERS, row_of_timm

PAGE = (Path(__file__).parents[3] / "docs" / "inspect-models.md").read_text()
CHEAP = [
    "ViT, registers",
    "ViT, differential attention",
    "CaiT",
    "SAM",
    "Swin",
    "MobileViT",
    "ResNet",
    "PVTv2",
]


def test_the_page_has_a_line_for_each_family() -> None:
    assert PAGE.startswith(HEADER)
    lines = PAGE.removeprefix(HEADER).splitlines()
    told = {tuple(line.split(" | ")[:2]) for line in lines}
    assert {("| timm", family) for family in TIMM} <= told
    assert {("| transformers", family) for family in TRANSFORMERS} <= told


@pytest.mark.parametrize("family", CHEAP)
def test_a_line_is_what_a_run_gives(family: str) -> None:
    assert row_of_timm(family) in PAGE.splitlines()
