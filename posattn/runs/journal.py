"""The journal of a run, metrics.jsonl: one event per line, appended, each with its checksum."""

import warnings
from pathlib import Path
from typing import Any

from posattn.runs.files import append_line, read_line, write_whole
from posattn.runs.ranks import is_writer

FIELDS: dict[str, dict[str, type]] = {  # of the events that a run reads back
    "unit": {"name": str, "value": object, "files": list},
    "file": {"name": str, "sha256": str},
    "folder": {"name": str, "files": list},
    "data": {"name": str, "sha256": str},
    "environment": {"device": str, "versions": dict},
    "finished": {"at": str},
}


def read_event(line: bytes) -> dict[str, Any] | None:
    """The values of a line of the journal, None if it is damaged or not an event that posattn writes."""
    values = read_line(line)
    if values is None or not isinstance(values.get("event"), str):
        return None
    fields = FIELDS.get(values["event"], {})
    return values if all(isinstance(values.get(name), kind) for name, kind in fields.items()) else None


class Journal:
    """The lines of a file, which may not exist yet. Of several ranks, rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, values: dict[str, Any], *, sync: bool = False) -> None:
        """Append one line, with fsync if ``sync``."""
        if is_writer():
            append_line(self.path, {"event": event, **values}, sync=sync)

    def read(self) -> list[dict[str, Any]]:
        """The values of the undamaged lines, oldest first."""
        return [values for _, values in self._whole_lines()]

    def read_from(self, place: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The values of the whole lines from byte ``place`` on, and the place after them."""
        content = b""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(place)
                content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        return [values for line in content.splitlines() if (values := read_event(line))], place + len(content)

    def mend(self) -> bool:
        """Drop damaged lines, with a warning. Returns whether there were lines, and none was damaged."""
        held = self.path.read_bytes() if self.path.is_file() else b""
        lines = [line for line, _ in self._whole_lines()]
        content = b"".join(line.rstrip(b"\r\n") + b"\n" for line in lines)
        if not lines:
            warnings.warn(f"{self.path} is missing or damaged: finished work is computed again", stacklevel=3)
        elif bad := held.count(b"\n") - len(lines):
            message = f"{self.path} has {bad} damaged line(s): what they record is computed again"
            warnings.warn(message, stacklevel=3)
        write_whole(self.path, content)
        return bool(lines) and held.replace(b"\r\n", b"\n") == content

    def _whole_lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Without lines that a kill truncated or the disk corrupted."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return [(line, values) for line in lines if line.endswith(b"\n") and (values := read_event(line))]
