"""Bounds of settings: held once, named by the flag, shown in the help."""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import pytest
import tyro

from posattn import checks
from posattn.settings import (
    Count,
    Distincts,
    Finite,
    Natural,
    NonNegative,
    OddPower,
    Positive,
    Probability,
    Seed,
    Several,
    TwoOrMore,
    check,
    naming_flags,
)


@dataclass(frozen=True)
class Model:
    heads: Count = 4
    embed_dim: Count = 8
    depth: Natural | None = None
    kinds: Several[Literal["a kind", "other"]] = ("other",)
    extra: Distincts[str] = ()
    power: OddPower = 3
    size: tuple[float, float] = (0.0, 1.0)

    def validate(self) -> None:
        checks.divides("heads", self.heads, "embed_dim", self.embed_dim)


@dataclass(frozen=True)
class Config:
    model: Annotated[Model, tyro.conf.arg(name="")] = field(default_factory=Model)
    beside_it: Model = field(default_factory=Model)
    value_rate: NonNegative = 0.1
    lr: Positive = 0.1
    share: Probability = 0.5
    offset: Finite = -1.0
    ratios: Several[float] = (1.0, 2.0)
    rounds: TwoOrMore = 3
    name: str = "x"
    seed: Seed = 0


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"value_rate": -1e-9}, "--value-rate must be at least 0, got -1e-09"),
        ({"value_rate": NAN}, "--value-rate must be finite, got nan"),
        ({"offset": float("inf")}, "--offset must be finite, got inf"),
        ({"lr": 0.0}, "--lr must be above 0, got 0.0"),
        ({"share": 1.5}, "--share must be at most 1, got 1.5"),
        ({"ratios": ()}, "--ratios must have at least 1 value, got ()"),
        ({"ratios": (1.0, 1.0)}, "--ratios must not repeat a value, got (1.0, 1.0)"),
        ({"ratios": (1.0, NAN)}, "--ratios must be finite, got nan"),
        ({"rounds": 1}, "--rounds must be at least 2, got 1"),
        ({"name": ""}, "--name must not be empty, got ''"),
        ({"seed": 2**40}, f"--seed must be below {2**31}, got {2**40}"),
        ({"model": Model(heads=3)}, "--heads must divide embed_dim, got heads=3, embed_dim=8"),
        (
            {"beside_it": Model(heads=3)},
            "--beside-it.heads must divide embed_dim, got heads=3, embed_dim=8",
        ),
        ({"beside_it": Model(depth=-1)}, "--beside-it.depth must be at least 0, got -1"),
        ({"beside_it": Model(power=4)}, "--beside-it.power must be odd, got 4"),
        ({"beside_it": Model(extra=("a", "a"))}, "--beside-it.extra must not repeat a value, got ('a', 'a')"),
        ({"beside_it": Model(size=(0.0, NAN))}, "--beside-it.size must be finite, got nan"),
    ],
)
def test_what_is_out_of_bounds_is_named_by_its_flag(changes: dict[str, Any], expected: str) -> None:
    check(Config())
    with pytest.raises(ValueError, match=re.escape(expected) + "$"):
        check(replace(Config(), **changes))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "value_rate must be at most 1, the fastest, got 2",
            "--value-rate must be at most 1, the fastest, got 2",
        ),
        ("depth of model and other differ", "depth of model and other differ"),  # two settings have this name
        ("beside_it.depth is too large", "--beside-it.depth is too large"),
        ("name", "--name "),
        ("cifar10 not found", "cifar10 not found"),
    ],
)
def test_an_error_of_the_work_names_the_flag_too(said: str, expected: str) -> None:
    error = ValueError(said)
    error.add_note("(finished work is kept)")
    with pytest.raises(ValueError, match=re.escape(expected)) as caught, naming_flags(Config()):
        raise error
    assert caught.value.__notes__ == ["(finished work is kept)"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rounds": 2.5}, "--rounds must be an integer, got 2.5"),
        ({"rounds": True}, "--rounds must be an integer, got True"),
        ({"lr": "1"}, "--lr must be a number, got '1'"),
        ({"ratios": [1.0]}, "--ratios must be a tuple, got [1.0]"),
        ({"model": Model(kinds=("third",))}, "--kinds must be one of 'a kind', 'other', got 'third'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_type_is_named_by_its_flag(changes: dict[str, Any], expected: str) -> None:
    config = Config()
    for name, value in changes.items():
        object.__setattr__(config, name, value)  # past what checks annotations in tests
    with pytest.raises(TypeError, match=re.escape(expected) + "$"):
        check(config)


def test_an_integer_is_a_number() -> None:
    check(replace(Config(), lr=1))


def test_bounds_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for shown in (
        "--heads INT>=1",
        "--depth {None}|INT>=0",
        "--rounds INT>=2",
        "--beside-it.power ODD INT>=3",
        "--value-rate FLOAT>=0",
        "--lr FLOAT>0",
        "--share FLOAT in [0,1]",
        "--kinds [{a kind,other} [{a kind,other} ...]]",
    ):
        assert shown in said, said


def test_what_is_no_number_is_refused_by_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--beside-it.depth", "four"])
    assert re.search("--beside-it.depth.*four", capsys.readouterr().err, re.DOTALL)
