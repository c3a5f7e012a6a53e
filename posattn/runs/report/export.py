"""A finished run as Markdown, figures and numbers, small enough to keep in a repository."""

import base64
import hashlib
import html
import json
import os
import re
from pathlib import Path
from typing import Any
from unicodedata import normalize

from posattn.runs.environment import made_on
from posattn.runs.files import digest, is_plain, make_folder, read_json, write_whole
from posattn.runs.folder import RESULT, RunFolder
from posattn.runs.page import printable
from posattn.runs.record import is_run
from posattn.runs.report.html import known_form, prepared_sections

INK, PAPER = "#24292f", "#ffffff"  # figures outside a page cannot inherit a text colour
PAGE, WRITTEN = "README.md", ".posattn-export.json"  # the page, and the SHA-256 of each file of the export


def export(folder: Path, target: Path) -> Path:
    """Write README.md, its figures and result.json (the numbers and what made them) into ``target``.

    Files of an earlier export are replaced, other files never are. Returns the path of README.md.

    Raises:
        ValueError: ``folder`` holds no finished run; ``target`` is a run, or has a file of the same name that no export
            wrote or that has changed since. Nothing is written.
        OSError: ``target`` cannot be written.
    """
    run = RunFolder.reading(folder)
    with known_form(run):
        files = exported(run)
    earlier = earlier_files(target)
    real = Path(os.path.realpath(target))
    for place in (real, *real.parents):
        if is_run(place):
            raise ValueError(f"{place} is a run; choose another folder for the export")
    for name in files:
        if (target / name).is_dir():
            raise ValueError(f"{target / name} is a folder; move it, or choose another folder for the export")
        if digest(target / name) not in ("", *earlier.get(name, ())):
            raise ValueError(
                f"{target / name} was not written by an export or has changed since; move it, or choose another folder"
            )
    make_folder(target)
    written = {name: [hashlib.sha256(content).hexdigest()] for name, content in files.items()}
    # first, so that an export that is cut short can be repeated
    both = {name: [*earlier.get(name, []), *written.get(name, [])] for name in earlier | written}
    note_written(target, {name: list(dict.fromkeys(each)) for name, each in both.items()})
    for name, content in files.items():
        write_whole(target / name, content)
    for name in earlier.keys() - files.keys():
        if digest(target / name) in earlier[name]:
            (target / name).unlink()
    note_written(target, written)
    return target / PAGE


def note_written(target: Path, digests: dict[str, list[str]]) -> None:
    """Write the SHA-256 that each file of an export may have, one if it is finished."""
    noted = {name: each[0] if len(each) == 1 else each for name, each in digests.items()}
    write_whole(target / WRITTEN, (json.dumps(noted, indent=1) + "\n").encode())


def earlier_files(target: Path) -> dict[str, list[str]]:
    """The SHA-256 that each file of the last export into a folder may have, by name."""
    written = read_json(target / WRITTEN) if (target / WRITTEN).is_file() else {}
    if not isinstance(written, dict):
        raise ValueError(f"{target / WRITTEN} is not of an export: it holds a {type(written).__name__}")
    return {
        name: found if isinstance(found, list) else [found]
        for name, found in written.items()
        if is_plain(name)
    }


def exported(run: RunFolder) -> dict[str, bytes]:
    """The files of an export by name."""
    files: dict[str, bytes] = {}
    result = run.result
    parts = [f"# {plain(result['title'])}", plain(result["summary"]), made_by(run)]
    sections = prepared_sections(run)
    if result.get("kind") == "inspection":
        from posattn.runs.report import inspection_table  # it needs pandas, other pages do not

        sections.append(inspection_table.section(run, result))
        files["table.csv"] = run.checked("table.csv").read_bytes()
    for section in sections:
        parts += [f"## {plain(section['title'])}", plain(section["claim"])]
        parts += [item_text(item, files) for item in section["items"]]
    numbers = {key: value for key, value in result.items() if key not in ("page", "title", "summary")}
    kept = {**run.config, "finished": run.finished, "result": numbers}
    files[RESULT] = printable_json(kept)
    files[PAGE] = (printable("\n\n".join(parts)) + "\n").encode()
    return files


def printable_json(values: Any) -> bytes:
    """JSON with text as it is, but for bytes that are not UTF-8, which are escaped."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def plain(text: str) -> str:
    """Markdown that shows the text as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|$~&#])", r"\\\1", " ".join(text.split()))


def made_by(run: RunFolder) -> str:
    """The command, the devices and the time of a run."""
    config, made = run.config, made_on(run)
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("posattn", "torch", "timm"))
    return (
        f"    {' '.join(config['command'].splitlines())}\n\n{made['device']}; started {config['started']}, "
        f"finished {run.finished}; first seed {config['seed']}; {versions}."
    )


def item_text(item: dict[str, Any], files: dict[str, bytes]) -> str:
    """A figure or table as Markdown; its pictures are added to ``files``."""
    caption = f"**{plain(item['title'])}.** {plain(item['caption'])}".rstrip()
    if item["kind"] == "table":
        rows = [[plain(cell) for cell in row] for row in (item["columns"], *item["rows"])]
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return caption + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
    stem = free_stem(item["title"], files)
    if "svg" in item:
        # as plain text: markup would escape the inserted values
        svg = str(item["svg"]).replace("currentColor", INK)
        files[f"{stem}.svg"] = svg.replace("<svg ", f'<svg style="background:{PAPER}" ', 1).encode()
        return f"{caption}\n\n![{plain(item['title'])}]({stem}.svg)"
    labels, images = item.get("labels") or [item["title"]], item["images"]
    if len(frames := item.get("frames", [])) > 1:  # of a slider, the ends
        labels, images = [frames[0], frames[-1]], [images[0], images[-1]]
        caption += f" Left: {plain(labels[0])}; right: {plain(labels[1])}."
    names = [f"{stem}-{number}.png" for number, _ in enumerate(images, 1)]
    files |= {
        name: base64.b64decode(image.split(",", 1)[1]) for name, image in zip(names, images, strict=True)
    }
    if item["kind"] == "pictures":  # strips as wide as the page, one below the other
        shown = [
            f"{plain(label)}:\n\n![{plain(label)}]({name})" for name, label in zip(names, labels, strict=True)
        ]
        return "\n\n".join([caption, *shown])
    small = (
        f'<img src="{name}" alt="{html.escape(label)}" title="{html.escape(label)}" width="110">'
        for name, label in zip(names, labels, strict=True)
    )
    return f"{caption}\n\n" + "\n".join(small)


def free_stem(title: str, files: dict[str, bytes]) -> str:
    """A name for an item's pictures that no earlier item has, in ASCII: archives and web servers spell others anew."""
    letters = normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9_]+", "-", letters).strip("-")[:80] or "figure"
    taken = {name.rpartition(".")[0] for name in files}
    number = 1
    while {stem, f"{stem}-1"} & taken:
        number += 1
        stem = f"{stem.removesuffix(f'-{number - 1}')}-{number}"
    return stem
