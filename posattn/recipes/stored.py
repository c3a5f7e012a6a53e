"""Settings from a file: a run's config.json, or YAML of the same form."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from posattn.recipes import find
from posattn.runs.describe import with_newer


class Stored(NamedTuple):
    """The recipe that a file names, and its settings."""

    recipe: str
    settings: Any


def read_stored(path: Path) -> Stored:
    """The recipe and the settings in a file; missing settings have the recipe's defaults.

    Of a run, which has all settings of its time, newer ones have the defaults of their class. The file has the keys
    ``recipe`` and ``config``; others are ignored, so that every config.json can be read.
    Raises ValueError naming the file and the key, or OSError.
    """
    try:
        content = _load(path)
        recipe = find(content["recipe"])
        default, values = recipe.config(False), content.get("config") or {}
        if "format" in content and isinstance(values, dict):
            values = with_newer(values, default)
        return Stored(recipe.name, with_values(default, values))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def to_values(settings: Any) -> dict[str, Any]:
    """Settings as JSON holds them: mappings, lists, numbers and text; a path is its text."""
    return msgspec.to_builtins(settings, enc_hook=str)


def with_values(settings: Any, values: Any) -> Any:
    """The settings with other values, given as JSON holds them. ValueError naming one that does not fit."""
    merged = _merge(to_values(settings), values)
    return msgspec.convert(merged, type(settings), strict=False, dec_hook=_decode)


def _load(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), str):
        raise ValueError('names no recipe; a line "recipe: NAME" is needed')
    return content


def _merge(default: dict[str, Any], given: Any, place: str = "") -> dict[str, Any]:
    """The default settings with those given in their places. Raises ValueError naming a setting that does not exist."""
    if not isinstance(given, dict):
        raise ValueError(f"{place or 'config'} must be a mapping of settings, got {given!r}")
    merged = dict(default)
    for key, value in given.items():
        name = f"{place}.{key}" if place else str(key)
        if key not in default:
            raise ValueError(f"unknown setting {name!r}; known here: {', '.join(default)}")
        merged[key] = _merge(default[key], value, name) if isinstance(default[key], dict) else value
    return merged


def _decode(kind: type, value: Any) -> Any:
    """Hook of msgspec for types that JSON lacks: a path from its text."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {value!r}")
