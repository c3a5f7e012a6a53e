"""A finished run as Markdown, figures and numbers, small enough to keep beside a project's documents."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from posattn.runs.folder import RESULT, RunFolder, write_whole
from posattn.runs.report.html import prepared_sections

INK, PAPER = "#24292f", "#ffffff"  # figures outside the page have no text colour to take


def export(folder: Path, target: Path) -> Path:
    """Write README.md, its figures and result.json (the numbers and what made them) into ``target``.

    Returns the path of README.md. Raises ValueError where ``folder`` holds no finished run, OSError where ``target``
    cannot be written.
    """
    run = RunFolder.reading(folder)
    config, result = run.config, run.result
    target.mkdir(parents=True, exist_ok=True)
    parts = [f"# {result['title']}", result["summary"], made_by(run)]
    for section in prepared_sections(run):
        parts += [f"## {section['title']}", section["claim"]]
        parts += [text for item in section["items"] if (text := item_text(item, target))]
    numbers = {key: value for key, value in result.items() if key not in ("page", "title", "summary")}
    kept = {**config, "finished": run.finished, "result": numbers}
    write_whole(target / RESULT, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())
    page = target / "README.md"
    write_whole(page, ("\n\n".join(parts) + "\n").encode())
    return page


def made_by(run: RunFolder) -> str:
    """The command, the device and the time of a run."""
    config = run.config
    versions = ", ".join(f"{name} {config['versions'][name]}" for name in ("posattn", "torch", "timm"))
    return (
        f"    {config['command']}\n\n{config['device']}; started {config['started']}, finished {run.finished}; "
        f"first seed {config['seed']}; {versions}."
    )


def item_text(item: dict[str, Any], target: Path) -> str:
    """A figure or table as Markdown; its files are written into ``target``."""
    caption = f"**{item['title']}.** {item['caption']}"
    stem = re.sub(r"\W+", "-", item["title"].lower()).strip("-")
    if item["kind"] == "table":
        lines = [item["columns"], ["---"] * len(item["columns"]), *item["rows"]]
        return caption + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if "svg" in item:
        svg = str(item["svg"]).replace("currentColor", INK)  # as text: markup would escape what is put in
        svg = svg.replace("<svg ", f'<svg style="background:{PAPER}" ', 1)
        write_whole(target / f"{stem}.svg", svg.encode())
        return f"{caption}\n\n![{item['title']}]({stem}.svg)"
    labels = item.get("labels") or [item["title"]]
    names = []
    for number, image in enumerate(item["images"][-len(labels) :]):
        names.append(f"{stem}-{number + 1}.png")
        write_whole(target / names[-1], base64.b64decode(image.split(",", 1)[1]))
    if item["kind"] == "pictures":  # strips as wide as the page, one below the other
        shown = [f"{label}:\n\n![{label}]({name})" for name, label in zip(names, labels, strict=True)]
        return "\n\n".join([caption, *shown])
    small = (
        f'<img src="{name}" alt="{label}" title="{label}" width="110">'
        for name, label in zip(names, labels, strict=True)
    )
    return f"{caption}\n\n" + "\n".join(small)
