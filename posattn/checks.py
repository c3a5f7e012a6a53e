"""Validation of arguments: one clear line with the offending value."""

import math
from numbers import Integral, Real


def positive_int(name: str, value: object) -> int:
    """``value`` as an int of at least 1, else TypeError or ValueError naming it."""
    return _integer(name, value, 1)


def natural(name: str, value: object) -> int:
    """``value`` as an int of at least 0, else TypeError or ValueError naming it."""
    return _integer(name, value, 0)


def _integer(name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def finite(name: str, value: object, minimum: float = -math.inf) -> float:
    """``value`` as a finite float of at least ``minimum``, else TypeError or ValueError naming it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < minimum:
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        raise ValueError(f"{name} must be a finite number{bound}, got {value}")
    return float(value)


def positive(name: str, value: object) -> float:
    """``value`` as a finite float above 0, else TypeError or ValueError naming it."""
    if (number := finite(name, value)) <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return number


def probability(name: str, value: object) -> float:
    """``value`` as a float in [0, 1], else TypeError or ValueError naming it."""
    number = finite(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {value}")
    return number


def odd_power(name: str, value: object) -> int:
    """``value`` as an odd int of at least 3 (the paper's p), else TypeError or ValueError naming it."""
    power = positive_int(name, value)
    if power < 3 or power % 2 == 0:
        raise ValueError(f"{name} must be odd and at least 3, got {value}")
    return power


def divides(part_name: str, part: object, whole_name: str, whole: object) -> int:
    """``whole // part`` where ``part`` divides ``whole``, else an error naming both."""
    part, whole = positive_int(part_name, part), positive_int(whole_name, whole)
    if whole % part:
        raise ValueError(
            f"{part_name} must divide {whole_name}, got {part_name}={part}, {whole_name}={whole}"
        )
    return whole // part


def of_type(name: str, value: object, kind: type) -> None:
    """Raise TypeError naming ``value`` if it is not of this type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def known(kind: str, name: str, names: object) -> str:
    """``name`` if it is among ``names``, else ValueError listing what is known."""
    if name not in (listed := sorted(names)):  # type: ignore[call-overload]
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(listed)}")
    return name
