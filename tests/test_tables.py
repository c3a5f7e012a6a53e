"""Tables on the terminal keep every word and number."""

import io

import pytest
from rich.console import Console

from posattn.cli.tables import table, widths

COLUMNS = ["model", "loss before", "loss after", "D = 64", "D = 1,048,576"]
ROW = [
    "learned attention, fine-tuned",
    "123.4 (100.1 to 1e+03)",
    "1e+05 (1.23e+05 to 2.34e+05)",
    "0.123456",
    "5",
]


@pytest.mark.parametrize("width", range(40, 120, 8))
def test_no_word_is_cut_in_a_terminal_of_any_width(width: int) -> None:
    out = Console(file=io.StringIO(), width=width)
    out.print(table({"columns": COLUMNS, "rows": [ROW]}, out), crop=False)
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert [word for cell in (*COLUMNS, *ROW) for word in cell.split() if word not in printed] == []


def test_room_is_divided_evenly() -> None:
    assert widths([(4, 4), (3, 9), (2, 5)], 14) == [4, 5, 4]
    assert widths([(4, 4), (3, 9)], 5) == [4, 3]
    assert widths([(4, 4), (3, 9)], 50) == [4, 9]
