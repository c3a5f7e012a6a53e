"""The Python of docs/theory.md runs as written."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/theory.md"


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks
    for body in blocks:
        exec(compile(body, "theory.md", "exec"), {})


def test_the_tests_that_it_names_exist() -> None:
    tests = "".join(path.read_text() for path in PAGE.parents[1].glob("tests/*/*.py"))
    named = re.findall(r"::(test_\w+)", PAGE.read_text())
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
