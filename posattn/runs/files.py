"""Atomic writes of files, journals of checked lines, and checksums."""

import errno
import hashlib
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other ends of lines
PART = ".posattn-part"  # suffix of a temporary file


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` atomically. Raises OSError naming ``path``."""
    part = path.with_name(f".{path.name}{PART}")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses even this
            part.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_folder(path: Path) -> None:
    """Create a folder and those around it. Raises NotADirectoryError if something else has the name, or OSError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path} is not a folder") from error


def sync(path: Path) -> None:
    """fsync a file, or a folder, which makes the names of its files durable (not on Windows, which opens none)."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises FileNotFoundError or ValueError naming the file."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not whole JSON: {error}") from error


def to_json(value: Any) -> str:
    """Strict JSON. Raises ValueError for a value that is not finite."""
    return json.dumps(value, allow_nan=False)


def append_line(path: Path, values: dict[str, Any], *, sync: bool = False) -> None:
    """Append ``values`` and their CRC-32 as one line of JSON, in one write: lines of several processes never mix.

    Raises:
        ValueError: a value is not finite.
        OSError: the line could not be written whole; it names ``path``.
    """
    text = to_json(values)
    line = f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sync:
            os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def read_line(line: bytes) -> dict[str, Any] | None:
    """The values of a line written by ``append_line``, None if it is damaged. An editor may have added ``\\r``."""
    text, found, check = line.rstrip(b"\r\n").rpartition(b', "crc32": "')
    if not found or check != f'{zlib.crc32(text + b"}"):08x}"}}'.encode():
        return None
    return json.loads(line)


def digest(path: Path) -> str:
    """SHA-256 of a file, empty if there is none."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_name(name: str) -> str:
    """``name`` if it is a file name without a path. Raises ValueError otherwise."""
    if not is_plain(name):
        raise ValueError(f"{name!r} is not the name of a file in the run")
    return name


def is_plain(name: str) -> bool:
    """Whether ``name`` is a file name without a path."""
    return name == Path(name).name and name not in ("", "..") and not {"\0", "\\"} & set(name)
