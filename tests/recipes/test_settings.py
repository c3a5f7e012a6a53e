"""Every setting of every recipe and command has a help text, and refuses wrong values by its flag."""

import contextlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
import tyro
from annotated_types import Ge

from posattn import cli, recipes, settings
from posattn.cli import parsing
from posattn.recipes.stored import read_stored
from posattn.runs.folder import open_run
from posattn.settings import Distincts, Finite

recipes.load()
HUGE = 10**12


class Leaf(NamedTuple):
    """A setting that is no group of others."""

    names: tuple[str, ...]  # attributes that lead to it
    hint: Any
    value: Any


def default(kind: type) -> Any:
    """An instance of a command's settings, with a value of its type for each that has no default."""
    hints = get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    return kind(**{name: example(hints[name]) for name in needed})


def example(hint: Any) -> Any:
    """A value of a type: text, a path or a tuple of one."""
    return (example(get_args(hint)[0]),) if get_origin(hint) is tuple else hint("x")


IMAGES = ["x", "--images", "x"]
# arguments without a default
NEEDED = {
    "inspect": IMAGES,
    "convert": IMAGES,
    "compare": ["x", "x"],
    "merge": ["x"],
}
CONFIGS = {f"run {name}": recipe.config(False) for name, recipe in sorted(recipes.RECIPES.items())}
CONFIGS |= {command.name: default(kind) for kind, command in recipes.COMMANDS.items()}


def leaves(config: Any, names: tuple[str, ...] = ()) -> Iterator[Leaf]:
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, path = getattr(config, field.name), (*names, field.name)
        if is_dataclass(value):
            yield from leaves(value, path)
        else:
            yield Leaf(path, hints[field.name], value)


def changed(config: Any, names: tuple[str, ...], value: Any) -> Any:
    """The config with another value, past what checks annotations in tests."""
    name, *rest = names
    copy = replace(config)
    object.__setattr__(copy, name, changed(getattr(config, name), tuple(rest), value) if rest else value)
    return copy


def wrong(hint: Any, value: Any = None) -> Iterator[Any]:
    """Values of a type that no setting of that type may have."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from wrong(option, value)
        return
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if get_origin(plain) in (Union, UnionType):
        yield from wrong(plain, value)
    elif plain is int:
        yield from (-1, HUGE, 2.5) if Ge(0) in extras else (-1, 0, HUGE, 2.5)
    elif plain is float:
        yield from (math.nan, math.inf, -math.inf)
        yield from () if hint == Finite else (-1.0,)
    elif plain is str:
        yield ""
    elif get_origin(plain) is Literal:
        yield "no such thing"
    elif get_origin(plain) is tuple:
        inner = get_args(plain)
        if inner[1:] == (...,):
            yield from () if extras == get_args(Distincts[int])[1:] else ((),)
            yield from ((*value, value[-1]),) if value else ()
            yield from ((each,) for each in wrong(inner[0]))
    else:
        assert plain in (bool, Path, NoneType), f"the test knows no wrong values of {hint}"


def help_of(config: Any, markers: tuple[Any, ...]) -> str:
    """The help of a command's settings."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        tyro.cli(type(config), default=config, args=["--help"], config=markers)
    return shown.getvalue()


def flags(config: Any) -> dict[tuple[str, ...], str]:
    """The flag of each setting, as the help shows them."""
    shown = help_of(config, (tyro.conf.FlagCreatePairsOff,))
    known = set(re.findall(r"^[│ ]*(--[\w.-]+)", shown, re.MULTILINE))
    found = {}
    for leaf in leaves(config):
        parts = [name.replace("_", "-") for name in leaf.names]
        candidates = ["--" + ".".join(parts[start:]) for start in range(len(parts))]
        candidates += [f"--{'.'.join([*parts[:skip], *parts[skip + 1 :]])}" for skip in range(len(parts) - 1)]
        matching = [flag for flag in candidates if flag in known]
        found[leaf.names] = matching[0] if matching else leaf.names[-1].upper()
    return found


def refusal(config: Any) -> str:
    """What is said of a config, nothing where it is accepted."""
    try:
        settings.check(config)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_flag_has_a_help_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # narrow enough for one column of flags
    shown = help_of(CONFIGS[name], parsing.CONFIG)
    parts = re.split(r"^  (--\w[\w.-]*|\[?[A-Z_]+\]?(?= {2,}))", shown, flags=re.MULTILINE)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert len(texts) >= len([*leaves(CONFIGS[name])])
    spaces = re.compile(r"\s{2,}")
    for flag, rest in texts.items():
        text = spaces.split(rest, maxsplit=1)[-1]
        assert len(text.split("(default")[0].split("\n\n")[0].strip()) >= 5, flag


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_values_are_refused_by_the_flag(name: str) -> None:
    config = CONFIGS[name]
    settings.check(config)
    known, accepted = flags(config), []
    for leaf in leaves(config):
        for value in wrong(leaf.hint, leaf.value):
            if not refusal(changed(config, leaf.names, value)).startswith(f"{known[leaf.names]} "):
                accepted.append(f"{known[leaf.names]} {value!r}")
    assert not accepted


def words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, tuple) else [str(value)]


def test_the_command_line_says_so_in_one_line_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("a job was started")

    monkeypatch.setattr(recipes, "job_of", lambda settings: never)
    with open_run(tmp_path / "run", "demo", CONFIGS["run demo"]) as run:
        run.finish({"title": "", "summary": "", "page": []})
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    seen: set[str] = set()  # a setting of each type is enough: the test above has every setting
    for name, config in CONFIGS.items():
        needed = NEEDED.get(name, [])
        known = flags(config)
        for leaf in leaves(config):
            values = list(wrong(leaf.hint, leaf.value))
            flag = known[leaf.names]
            if not values or repr(leaf.hint) in seen or not flag.startswith("--"):
                continue
            seen.add(repr(leaf.hint))
            with pytest.raises(SystemExit) as stop:
                cli.main(
                    [
                        *name.split(),
                        *needed,
                        "--out",
                        str(tmp_path / "run"),
                        "--overwrite",
                        flag,
                        *words(values[0]),
                    ]
                )
            said = capsys.readouterr().err
            assert stop.value.code == 2, said
            assert said.startswith(f"posattn: {flag}"), said
            assert said.count("\n") == 1, said
            assert len(said) < 400, said
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_settings_that_a_run_did_not_know_are_as_they_were(tmp_path: Path) -> None:
    """The recipe mixes half of the batches since; runs before mixed all."""
    name = "images-cifar10-long"
    stored = {"recipe": name, "config": {"train": {"epochs": 7, "warmup_epochs": 1.0}}}
    for kind, content, expected in (("yaml", stored, 0.5), ("json", {"format": "a run", **stored}, 1.0)):
        path = tmp_path / f"config.{kind}"
        path.write_text(json.dumps(content))
        train = read_stored(path).settings.train
        assert (train.epochs, train.mix_prob) == (7, expected)
