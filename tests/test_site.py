"""The site builds without warnings or dead links between its pages, and its notebooks run."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib.pyplot as plt
import pytest

import posattn

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("notebook", sorted(DOCS.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_and_are_committed_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(notebook), "exec"), names)
    plt.close("all")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    out = tmp_path_factory.mktemp("site")
    extensions = runpy.run_path(str(DOCS / "conf.py"))["extensions"]
    extensions.remove("sphinx.ext.viewcode")  # its pages of source are half the work
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "nb_execution_mode=off"]
    build += ["-D", f"extensions={','.join(extensions)}", "-d", str(out / "trees")]
    done = subprocess.run(
        [*build, str(DOCS), str(out / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    shutil.rmtree(out / "trees")
    return out / "html"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    missing = [name for name in posattn.__all__ if f".{name}" not in pages]
    assert not missing


def test_pictures_and_links_between_pages_exist(site: Path) -> None:
    missing = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:", link) and not (page.parent / unquote(link)).exists():
                missing.append((page.name, link))
    assert not missing


def test_formulas_are_marked_for_mathjax(site: Path) -> None:
    theory = (site / "theory.html").read_text()
    assert r'<span class="math notranslate nohighlight">\(\kappa = D\)</span>' in theory
    assert "mathjax" in theory.lower()
    assert "$$" not in re.sub(r"<script.*?</script>", "", theory, flags=re.DOTALL)


def test_every_page_is_in_the_index(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("results/*/README.md")]:
        assert str(page.relative_to(DOCS).with_suffix(".html")) in index
