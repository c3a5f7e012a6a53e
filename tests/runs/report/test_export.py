"""A finished run as Markdown beside its figures and numbers."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import markupsafe
import numpy as np
import pytest
import torch
from PIL import Image

from posattn import cli
from posattn.recipes.demo.settings import DemoConfig
from posattn.runs.files import write_whole
from posattn.runs.folder import open_run
from posattn.runs.page import Gallery, Lines, Maps, PictureRows, Section, Table, to_plain
from posattn.runs.report import export as export_module
from posattn.runs.report.export import export, free_stem
from posattn.runs.report.figures import COLOURS


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run = open_run(tmp_path / "run", "demo", DemoConfig())
    run.save_tensors(
        "toy", {"maps": torch.eye(3)[None], "pictures": torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)}
    )
    items = [
        Lines("A curve", "toy.x", {"a": "toy.y"}),
        Gallery("Maps", "toy:maps", ["head 1"]),
        PictureRows("Strips", "toy:pictures", ["before", "after"]),
        Table("A table", ["k", "accuracy"], [["1", "0.5 ± 0.1"]], "Two seeds."),
    ]
    page = to_plain([Section("Toy", "It is so.", items)])
    run.finish({"title": "Title", "summary": "Summary.", "toy": {"x": [1, 2], "y": [3.0, 4.0]}, "page": page})
    run.lock.release()
    return tmp_path / "run"


def test_the_page_is_exported_with_what_made_it(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept" / "toy"
    cli.main(["report", str(finished), "--export", str(out)])
    text = (out / "README.md").read_text()
    assert text.startswith("# Title\n\nSummary.\n\n    posattn")
    assert "| k | accuracy |\n| --- | --- |\n| 1 | 0.5 ± 0.1 |" in text
    kept = json.loads((out / "result.json").read_text())
    assert kept["result"] == {"toy": {"x": [1, 2], "y": [3.0, 4.0]}}
    assert kept["started"] <= kept["finished"]
    assert kept["finished"] in text
    for name in ("a-curve.svg", "maps-1.png", "strips-1.png", "strips-2.png"):
        assert f"({name})" in text or f'src="{name}"' in text
        assert (out / name).stat().st_size > 0
    svg = (out / "a-curve.svg").read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" not in svg


def test_a_curve_has_the_colour_of_its_label_in_every_figure(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "demo", DemoConfig())
    both, one = {"a": "toy.x", "b": "toy.x"}, {"b": "toy.x"}
    page = to_plain([Section("Toy", "It is so.", [Lines("Both", "toy.x", both), Lines("One", "toy.x", one)])])
    run.finish({"title": "Title", "summary": "Summary.", "toy": {"x": [1, 2]}, "page": page})
    run.lock.release()
    export(tmp_path / "run", tmp_path / "out")
    first, second = COLOURS[:2]
    svgs = [(tmp_path / "out" / name).read_text() for name in ("both.svg", "one.svg")]
    assert [first in svg for svg in svgs] == [True, False]
    assert [second in svg for svg in svgs] == [True, True]


def test_both_ends_of_a_slider_are_exported_and_named(tmp_path: Path) -> None:
    """The last frame was exported alone, without its name: of true and recovered maps the recovered ones."""
    run = open_run(tmp_path / "run", "demo", DemoConfig())
    run.save_tensors("toy", {"maps": torch.stack([torch.eye(3), torch.ones(3, 3), torch.eye(3).flip(0)])})
    items = [Maps("Scores", "toy:maps", ["step 0", "step 5", "step 9"], caption="Two seeds.")]
    page = to_plain([Section("Toy", "It is so.", items)])
    run.finish({"title": "Title", "summary": "Summary.", "page": page})
    run.lock.release()
    text = export(tmp_path / "run", tmp_path / "out").read_text()
    assert "**Scores.** Two seeds. Left: step 0; right: step 9." in text
    left, right = (np.asarray(Image.open(tmp_path / "out" / f"scores-{i}.png"))[..., 0] for i in (1, 2))
    assert left[0, 0] > left[0, 1]
    assert right[0, 2] > right[0, 1]
    assert not (tmp_path / "out" / "scores-3.png").exists()


def test_a_run_that_cannot_be_written_is_exported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a read-only disk, where root, too, cannot write: permissions do not hold root back."""
    (finished / "report.html").mkdir()
    cli.main(["report", str(finished), "--export", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "report: not written" in shown
    assert str(tmp_path / "out" / "README.md") in shown
    with pytest.raises(SystemExit):
        cli.main(["report", str(finished)])
    assert "report.html" in capsys.readouterr().err


def test_an_unfinished_run_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run(tmp_path / "run", "demo", DemoConfig())
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path / "run"), "--export", str(tmp_path / "out")])
    assert "unfinished run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["README.md", "result.json", "maps-1.png"])
def test_a_file_that_no_export_wrote_is_never_replaced(name: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} was not written by an export or has changed"):
        export(finished, out)
    assert files_of(out) == {name: b"mine"}


def test_an_export_replaces_an_earlier_one_but_no_file_that_was_edited(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    export(finished, out)
    first = files_of(out)
    (out / "notes.md").write_text("mine")
    export(finished, out)
    assert files_of(out) == {**first, "notes.md": b"mine"}
    (out / "README.md").write_text("better words")
    with pytest.raises(ValueError, match=r"README\.md was not written by an export or has changed"):
        export(finished, out)
    assert (out / "README.md").read_text() == "better words"


@pytest.mark.parametrize("count", range(8))
def test_an_export_that_is_cut_short_can_be_repeated(
    count: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another page than the earlier one, after any number of its files; what has changed since is still refused."""
    out, seen = tmp_path / "kept", []
    export(finished, out)
    result = json.loads((finished / "result.json").read_text())
    result["page"][0]["items"] = [
        item | {"title": f"{item['title']} 2"} for item in result["page"][0]["items"]
    ]
    rewritten(finished, result)

    def full(path: Path, content: bytes) -> None:
        if len(seen) == count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        seen.append(path)
        write_whole(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(export_module, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            export(finished, out)
    export(finished, out)
    assert files_of(out) == files_of(export(finished, tmp_path / "new").parent)
    (out / "a-curve-2.svg").write_text("mine")
    with pytest.raises(ValueError, match=r"a-curve-2\.svg was not written by an export or has changed"):
        export(finished, out)


def test_nothing_is_exported_into_a_run(finished: Path) -> None:
    before = files_of(finished)
    with pytest.raises(ValueError, match="is a run; choose another folder"):
        export(finished, finished)
    assert files_of(finished) == before


@pytest.mark.parametrize(
    ("title", "stem"), [("P Pᵀ before, after", "p-pt-before-after"), ("Zürich", "zurich"), ("γ", "figure")]
)
def test_names_of_figures_are_ascii(title: str, stem: str) -> None:
    assert free_stem(title, {}) == stem


def test_figures_of_one_title_are_two_files(finished: Path, tmp_path: Path) -> None:
    with open_run(tmp_path / "twice", "demo", DemoConfig()) as run:
        items = [
            Lines("A curve", "x", {"a": "y"}),
            Lines("A curve", "x", {"b": "x"}),
            Lines("A/curve", "x", {"b": "x"}),
        ]
        page = to_plain([Section("Toy", "It is so.", items)])
        run.finish({"title": "T", "summary": "S.", "x": [1, 2], "y": [3.0, 4.0], "page": page})
    export(tmp_path / "twice", tmp_path / "out")
    names = [path.name for path in sorted((tmp_path / "out").glob("*.svg"))]
    assert names == ["a-curve-2.svg", "a-curve-3.svg", "a-curve.svg"]
    assert (tmp_path / "out" / names[0]).read_bytes() != (tmp_path / "out" / names[2]).read_bytes()


STRANGE = "set[/b] $x_1$ <i>a</i> | `c` *d* ../e"


def test_names_are_text_and_never_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(tmp_path / "strange", "demo", DemoConfig()) as run:
        run.save_tensors("m", {"m": torch.eye(3)[None]})
        items = [
            Gallery(STRANGE, "m:m", [STRANGE], STRANGE),
            Table(STRANGE, [STRANGE, "b"], [[STRANGE, "1"]], STRANGE),
            Lines(STRANGE, "x", {STRANGE: "y", r"_$\frac{$[/b]": "y"}, x_label=STRANGE, y_label=STRANGE),
        ]
        page = to_plain([Section(STRANGE, STRANGE, items)])
        run.finish({"title": STRANGE, "summary": STRANGE, "x": [1, 2], "y": [1, 2], "page": page})
    cli.main(["report", str(tmp_path / "strange"), "--export", str(tmp_path / "out")])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{STRANGE}. {STRANGE}" in shown
    page = (tmp_path / "strange" / "report.html").read_text()
    assert "<i>a</i>" not in page
    assert page.count(str(markupsafe.escape(STRANGE))) >= 5
    svg = next((tmp_path / "out").glob("*.svg")).read_text()
    assert r"_$\frac{$[/b]" in svg
    assert "set[/b] $x_1$" in svg
    text = (tmp_path / "out" / "README.md").read_text()
    escaped = r"set\[/b\] \$x\_1\$ \<i\>a\</i\> \| \`c\` \*d\* ../e"
    assert text.startswith(f"# {escaped}\n\n{escaped}\n\n")
    assert f"| {escaped} | b |\n| --- | --- |\n| {escaped} | 1 |" in text
    assert 'alt="set[/b] $x_1$ &lt;i&gt;a&lt;/i&gt; | `c` *d* ../e"' in text
    assert {path.parent for path in (tmp_path / "out").rglob("*")} == {tmp_path / "out"}


def test_an_export_never_goes_into_a_run_nor_over_a_folder(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{finished} is a run"):
        export(finished, finished / "below" / "it")
    assert not (finished / "below").exists()
    (tmp_path / "out" / "README.md").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"README\.md is a folder"):
        export(finished, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    (tmp_path / "out" / ".posattn-export.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"\.posattn-export\.json is not of an export: it holds a list"):
        export(finished, tmp_path / "out")


def test_where_an_export_goes_is_told_by_the_real_path(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the run that is the working directory, and not through a link into a run."""
    monkeypatch.chdir(finished)
    assert export(Path(), Path("../beside")) == Path("../beside/README.md")
    assert (tmp_path / "beside" / "README.md").is_file()
    (finished / "below").mkdir()
    (tmp_path / "link").symlink_to(finished / "below")
    with pytest.raises(ValueError, match=f"{finished} is a run"):
        export(finished, tmp_path / "link" / "it")
    assert not list((finished / "below").iterdir())


def rewritten(run: Path, result: Any) -> Path:
    """The run with another result, whose digest is right: what another version may have written."""
    with open_run(run, "demo", DemoConfig(), resume=True) as again:
        again.save("result.json", json.dumps(result).encode())
    return run


@pytest.mark.parametrize(
    "result",
    [
        {"title": "t", "summary": "s"},
        {"title": "t", "summary": "s", "page": None},
        {"title": "t", "summary": "s", "page": [{"title": "t", "claim": "c", "items": [{"kind": "later"}]}]},
        {
            "title": "t",
            "summary": "s",
            "page": [{"title": "t", "claim": "c", "items": [{"kind": "maps", "tensor": "toy"}]}],
        },
    ],
)
def test_a_result_of_another_form_is_named_in_one_line(
    result: Any, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(rewritten(finished, result)), "--export", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"posattn: {finished}: result.json and config.json are not of a form that this")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_control_characters_reach_no_terminal_page_or_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[31mred\udce9|b"
    with open_run(tmp_path / "run", "demo", DemoConfig()) as run:
        run.save_tensors("m", {"m": torch.eye(3).repeat(2, 1, 1)})
        items = [
            Maps(name, "m:m", [name, "c"]),
            Table(name, [name], [[name]]),
            Lines("l", "x", {name: "y", "b": "y"}),
        ]
        page = to_plain([Section(name, name, items)])
        run.finish({"title": name, "summary": name, "x": [1, 2], "y": [1, 2], "page": page, "name": name})
    cli.main(["report", str(tmp_path / "run"), "--export", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    html = (tmp_path / "run" / "report.html").read_text()
    files = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".md", ".svg")]
    for text in (shown, html, *files):
        assert r"\x1b[31mred\udce9|b" in text.replace("\\\\", "\\").replace(r"\[", "[").replace(r"\|", "|")
        assert "\x1b" not in text
    assert json.loads((tmp_path / "out" / "result.json").read_text())["result"]["name"] == name
    (frames,) = re.findall('data-frames="([^"]*)"', html)
    assert len(json.loads(markupsafe.Markup(frames).unescape())) == 2
