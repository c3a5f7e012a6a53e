"""Types of settings: each states its bounds once, for the check before a run and for ``--help``.

Settings are frozen dataclasses. ``check`` walks one and everything below it; it needs no torch. A dataclass whose
fields depend on each other has a method ``validate()`` that raises ValueError with a message that begins with the
name of the field at fault, as the messages of ``posattn.checks`` do; ``check`` turns the name into the flag.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from tyro.conf import OmitArgPrefixes, Positional
from tyro.constructors import PrimitiveConstructorSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Distinct:
    """No value twice."""


@dataclass(frozen=True)
class Odd:
    """Not divisible by 2."""


def _shown(metavar: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """How ``--help`` shows a type, alone, in a tuple or as an alternative to None; ``check`` enforces the bounds."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [str(value)],
    )


# upper bounds keep counts and seeds, and sums of two, inside what NumPy and scikit-learn take
Count = Annotated[int, Ge(1), Lt(2**31), _shown("INT>=1", int)]
Natural = Annotated[int, Ge(0), Lt(2**31), _shown("INT>=0", int)]
TwoOrMore = Annotated[int, Ge(2), Lt(2**31), _shown("INT>=2", int)]
"""A number of which 1 is too few: repetitions for quartiles, dimensions of a patch."""
OddPower = Annotated[int, Ge(3), Lt(100), Odd(), _shown("ODD INT>=3", int)]
Pixels = Annotated[int, Ge(1), Le(8192), _shown("INT in [1,8192]", int)]
Seed = Annotated[int, Ge(0), Lt(2**31), _shown("INT>=0", int)]
Finite = Annotated[float, _shown("FLOAT", float)]
Positive = Annotated[float, Gt(0), _shown("FLOAT>0", float)]
NonNegative = Annotated[float, Ge(0), _shown("FLOAT>=0", float)]
Probability = Annotated[float, Ge(0), Le(1), _shown("FLOAT in [0,1]", float)]
Several = Annotated[tuple[T, ...], MinLen(1), Distinct()]
"""One or more values, each once: ``Several[Count]``."""
Distincts = Annotated[tuple[T, ...], Distinct()]
"""Any number of values, each once: ``Distincts[str]``."""


def check(settings: Any, path: tuple[str, ...] = ()) -> None:
    """Raise ValueError or TypeError naming the flag of the first setting that is out of its bounds."""
    hints = get_type_hints(type(settings), include_extras=True)
    places = _places(settings, path)
    for name, place in places.items():
        value = getattr(settings, name)
        if is_dataclass(value):
            check(value, place)
        else:
            _check_value(flag(place), hints[name], value)
    if hasattr(settings, "validate"):
        with _renaming({name: flag(place) for name, place in places.items() if place}):
            settings.validate()


@contextmanager
def naming_flags(settings: Any) -> Iterator[None]:
    """A ValueError raised inside that begins with the name of a setting begins with its flag instead.

    The name may be that of the group and of the setting, ``train.lr``. One that several settings have stays.
    """
    found = list(_leaves(settings))
    counts = Counter(name for name, _ in found)
    with _renaming({name: flag(place) for name, place in found if counts[name] == 1}):
        yield


@contextmanager
def _renaming(flags: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        if name not in flags:
            raise
        renamed = ValueError(f"{flags[name]} {rest}")
        for note in getattr(error, "__notes__", []):
            renamed.add_note(note)
        raise renamed from error


def flag(place: tuple[str, ...]) -> str:
    """The name of a setting on the command line: that of its flag, or in capitals what has none."""
    return place[0] if place[0].isupper() else "--" + ".".join(place).replace("_", "-")


def _leaves(
    settings: Any, path: tuple[str, ...] = (), group: str = ""
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The place of every setting under its name, and under ``group.name`` where it is in a group."""
    for name, place in _places(settings, path).items():
        value = getattr(settings, name)
        if is_dataclass(value):
            yield from _leaves(value, place, name)
        else:
            yield name, place
            if group:
                yield f"{group}.{name}", place


def _places(settings: Any, path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Where each field is on the command line."""
    hints = get_type_hints(type(settings), include_extras=True)
    return {field.name: _place(path, field.name, hints[field.name]) for field in fields(settings)}


def _place(path: tuple[str, ...], name: str, hint: Any) -> tuple[str, ...]:
    """Where a field is on the command line: its class, or an annotation of tyro's, may leave the prefix out."""
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    for extra in extras:
        if getattr(extra, "name", None) is not None:  # tyro.conf.arg(name=...)
            name = extra.name
    if OmitArgPrefixes in extras:
        return ()
    if Positional in extras:
        return (name.upper(),)
    return (*path, name) if name else path


def plain(value: Any) -> Any:
    """The value with text for paths."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return str(value) if isinstance(value, Path) else value


def _check_value(name: str, hint: Any, value: Any) -> None:
    """Refuse a value that is not of its type, or out of its bounds."""
    bounds: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        bounds = tuple(rest)
    if get_origin(hint) in (Union, UnionType):
        options = [option for option in get_args(hint) if option is not NoneType]
        if value is not None and len(options) == 1:
            _check_value(name, options[0], value)
        return
    if expected := _wrong_type(hint, value):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    for problem in _problems(bounds, value):
        shown = (
            tuple(str(one) if isinstance(one, Path) else one for one in value)
            if isinstance(value, tuple)
            else value
        )
        raise ValueError(f"{name} must {problem}, got {shown!r}")
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        for each, its in zip(value, inner[:1] * len(value) if inner[1:] == (...,) else inner, strict=True):
            _check_value(name, its, each)


def _wrong_type(hint: Any, value: Any) -> str:
    """The type that ``value`` should have, empty if it has it."""
    if get_origin(hint) is Literal:
        return "" if value in get_args(hint) else f"one of {', '.join(map(repr, get_args(hint)))}"
    kinds = {
        bool: (bool, "true or false"),
        int: (Integral, "an integer"),
        float: (Real, "a number"),
        str: (str, "text"),
        Path: (Path, "a path"),
        tuple: (tuple, "a tuple"),
    }
    kind, words = kinds.get(get_origin(hint) or hint, (object, ""))
    is_number_for_bool = isinstance(value, bool) and hint in (int, float)
    return words if is_number_for_bool or not isinstance(value, kind) else ""


def _problems(bounds: tuple[Any, ...], value: Any) -> Iterator[str]:
    """The requirements that ``value`` violates."""
    if isinstance(value, float) and not math.isfinite(value):
        yield "be finite"
    if value == "":
        yield "not be empty"
    if isinstance(value, str | Path) and "\0" in str(value):
        yield "not contain a null character"
    for bound in bounds:
        match bound:
            case Ge(ge) if not value >= ge:
                yield f"be at least {ge}"
            case Gt(gt) if not value > gt:
                yield f"be above {gt}"
            case Le(le) if not value <= le:
                yield f"be at most {le}"
            case Lt(lt) if not value < lt:
                yield f"be below {lt}"
            case MinLen(least) if len(value) < least:
                yield f"have at least {least} value"
            case Distinct() if len(set(value)) < len(value):
                yield "not repeat a value"
            case Odd() if value % 2 == 0:
                yield "be odd"
