"""Types of settings: each states its bounds once, for the check before a run and for ``--help``.

Settings are frozen dataclasses. ``check`` walks one and everything below it; it needs no torch.
"""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from tyro.conf import arg

T = TypeVar("T")


class Distinct:
    """No value twice."""


Count = Annotated[int, Ge(1), arg(metavar="INT>=1")]
Natural = Annotated[int, Ge(0), arg(metavar="INT>=0")]
Seed = Annotated[int, Ge(0), Lt(2**63), arg(metavar="INT>=0")]
Positive = Annotated[float, Gt(0), arg(metavar="FLOAT>0")]
NonNegative = Annotated[float, Ge(0), arg(metavar="FLOAT>=0")]
Probability = Annotated[float, Ge(0), Le(1), arg(metavar="FLOAT in [0,1]")]
Several = Annotated[tuple[T, ...], MinLen(1), Distinct()]
"""One or more values, each once: ``Several[Count]``."""


def check(settings: Any, path: tuple[str, ...] = ()) -> None:
    """Raise ValueError or TypeError naming the flag of the first setting that is out of its bounds."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        place = (*path, *_prefix(field.name, hint))
        if is_dataclass(value):
            check(value, place)
        else:
            _check_value("--" + ".".join(place).replace("_", "-"), hint, value)


def _prefix(name: str, hint: Any) -> tuple[str, ...]:
    """What a field adds to the flags below it: nothing where tyro's ``arg(name="")`` says so."""
    hidden = any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))
    return () if hidden else (name,)


def _check_value(flag: str, hint: Any, value: Any) -> None:
    if get_origin(hint) in (Union, UnionType):
        options = [option for option in get_args(hint) if option is not NoneType]
        if value is not None and len(options) == 1:
            _check_value(flag, options[0], value)
        return
    bounds: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        bounds = tuple(rest)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{flag} must be finite, got {value}")
    for problem in _problems(bounds, value):
        raise ValueError(f"{flag} must {problem}, got {value!r}")
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        for each in value:
            _check_value(flag, get_args(hint)[0], each)


def _problems(bounds: tuple[Any, ...], value: Any) -> Iterator[str]:
    """What ``value`` must be and is not."""
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
