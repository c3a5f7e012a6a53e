"""What is timed side by side, and what is refused. No time is asserted."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import config

from posattn.bench import models
from posattn.bench.models import COMPILED, EAGER, executed, own_compiler_cache, side_by_side, training_step


class Block(nn.Linear):
    """A module class of its own: before torch 2.14 compile() leaves a bare module of torch.nn as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(Block(48, 8), Block(8, 5))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.blocks(x.flatten(1))


@pytest.fixture(autouse=True)
def small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PRODUCT", 64)  # 2048 takes a third of a second


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_model_gets_as_many_turns(mode: str, dtype: str) -> None:
    toy = Toy()
    before = {k: v.clone() for k, v in toy.state_dict().items()}
    found = side_by_side({"a": toy, "b": Toy()}, torch.randn(4, 3, 4, 4), mode, dtype, 3, (EAGER,))
    assert len(found["peak"]) == 3
    for name in ("a", "b"):
        assert len(found[name][EAGER]["seconds"]) == 3
        assert found[name]["multiply_adds"] == 4 * (48 * 8 + 8 * 5)
        assert found[name]["parameters"] == 48 * 8 + 8 + 8 * 5 + 5
        assert found[name][EAGER]["memory"] > 0
    assert all(torch.equal(v, before[k]) and v.dtype == torch.float32 for k, v in toy.state_dict().items())


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_compiled_is_the_whole_model_or_its_blocks_with_the_same_outputs(mode: str) -> None:
    toy, x = Toy(), torch.randn(4, 3, 4, 4)
    compiled = executed(toy, COMPILED, mode)
    whole = compiled._compiled_call_impl is not None
    assert [block._compiled_call_impl is not None for block in compiled.blocks] == [not whole] * 2
    assert whole == (mode == "inference")
    assert all(module._compiled_call_impl is None for module in toy.modules())
    with own_compiler_cache():
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        torch.testing.assert_close(compiled(x), toy(x))
        assert any(file.is_file() for file in folder.rglob("*"))
    assert not folder.exists()
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") != str(folder)


def test_weights_are_frozen_for_inference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the setting in force when the first call compiles."""
    seen = []
    monkeypatch.setattr(
        Toy, "forward", lambda self, x: (seen.append(config.freezing), self.blocks(x.flatten(1)))[1]
    )
    for mode in ("inference", "training"):
        side_by_side({"a": Toy()}, torch.randn(4, 3, 4, 4), mode, "float32", 2, (EAGER,))
        assert seen[0] == (mode == "inference")
        seen.clear()
    assert not config.freezing


def test_a_training_step_trains() -> None:
    toy, x = Toy(), torch.randn(5, 3, 4, 4)
    step = training_step(toy, x, torch.bfloat16)
    labels = torch.arange(5)

    def loss() -> float:
        return nn.functional.cross_entropy(toy(x), labels).item()

    before = loss()
    for _ in range(20):
        step()
    assert loss() < before
    assert all(p.grad is None and p.dtype == torch.float32 for p in toy.parameters())


def test_a_model_that_fails_is_a_reason_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot run, one that cannot be compiled, and one that is too slow; the others are timed."""

    class Broken(Toy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel\nfor this")

    def compile_no_slow_ones(model: nn.Module, execution: str, mode: str) -> nn.Module:
        if execution == COMPILED:
            raise NotImplementedError("a graph break")
        return model

    monkeypatch.setattr(models, "executed", compile_no_slow_ones)
    rivals, images = {"broken": Broken(), "fine": Toy()}, torch.randn(4, 3, 4, 4)
    found = side_by_side(rivals, images, "training", "float32", 2)
    assert found["broken"] == {"failed": dict.fromkeys((EAGER, COMPILED), "RuntimeError: no kernel for this")}
    assert found["fine"]["failed"] == {COMPILED: "NotImplementedError: a graph break"}
    assert len(found["fine"][EAGER]["seconds"]) == 2
    assert COMPILED not in found["fine"]
    with pytest.raises(RuntimeError, match=r"no model can be timed: .*no kernel"):
        side_by_side({"broken": Broken()}, images, "inference", "float32", 2)
    monkeypatch.setattr(models, "SLOWEST", 0)
    with pytest.raises(RuntimeError, match="TimeoutError: a call takes 0 s, more than 0"):
        side_by_side({"fine": Toy()}, images, "inference", "float32", 2, (EAGER,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "test"}, "mode"),
        ({"dtype": "float16"}, "float16"),
        ({"rounds": 1}, "at least 2 for quartiles, got 1"),
        ({"executions": ("fast",)}, "fast"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = {"mode": "inference", "dtype": "float32", "rounds": 2, "executions": (EAGER,), **change}
    with pytest.raises(ValueError, match=message):
        side_by_side({"a": Toy()}, torch.randn(4, 3, 4, 4), **arguments)
