"""The fused product on GPUs. Without one, Triton's interpreter runs the kernel on the CPU."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from posattn.vision.models import mixing
from posattn.vision.models.mixing import mix_tokens, takes_kernel

kernel = pytest.importorskip("posattn.vision.models.kernel", reason="no triton for this platform")

CASES = [(5, 64, 3, 64), (3, 50, 2, 24), (1, 7, 1, 5), (2, 130, 4, 80), (9, 3, 2, 128)]  # B, N, h, d_h
INTERPRETED = """
import torch
from posattn.vision.models.kernel import _product, launch

for B, N, h, d in {cases}:
    generator = torch.Generator().manual_seed(N)
    maps = torch.randn(h, N, N, generator=generator).softmax(-1)
    values = torch.randn(B, N, 2 * h * d, generator=generator)[..., ::2]
    expected = torch.einsum("hij,bjhd->bihd", maps.double(), values.reshape(B, N, h, d).double()).flatten(2)
    for given in (maps, maps.mT.contiguous().mT):
        torch.testing.assert_close(launch(_product, given, values), expected.float())
print("equal")
"""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def operands(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of 3 heads and values of 2 images, 5 tokens and 4 channels a head."""
    return torch.empty(3, 5, 5, device=device, dtype=dtype), torch.empty(2, 5, 12, device=device, dtype=dtype)


def test_the_kernel_by_its_definition() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = INTERPRETED.format(cases=CASES)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.fixture
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the GPU, here without data, has them: the last of the list."""
    has = [True]
    monkeypatch.setattr(mixing, "has_tensor_cores", lambda device: has[-1])
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext())
    with FakeTensorMode():
        yield has


def test_what_takes_it(tensor_cores: list[bool]) -> None:
    """Half precision on a GPU, unless gradients are wanted."""
    for dtype, takes in [(torch.float16, True), (torch.bfloat16, True), (torch.float32, False)]:
        maps, values = operands("cuda", dtype)
        assert takes_kernel(maps, values) == takes
        assert not takes_kernel(*operands("cpu", dtype))
        assert not takes_kernel(maps.requires_grad_(), values)
        with torch.no_grad():
            assert takes_kernel(maps, values) == takes
            assert not takes_kernel(maps, values.repeat(1, 1, 33))  # wide heads: 132 channels
            with forward_ad.dual_level():  # its result has no tangent
                assert not takes_kernel(maps, values)
    tensor_cores.append(False)
    assert not takes_kernel(*operands("cuda", torch.float16))


@pytest.mark.parametrize(
    ("capability", "cuda", "has"), [((9, 0), "13.0", True), ((7, 5), "13.0", False), ((9, 0), None, False)]
)
def test_tensor_cores(
    capability: tuple[int, int], cuda: str | None, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    choose = torch.compile(
        lambda x: x + 1 if mixing.has_tensor_cores(x.device) else x, backend="eager", fullgraph=True
    )
    torch.compiler.reset()
    assert choose(torch.zeros(())) == has


def test_its_operations_are_counted(tensor_cores: list[bool]) -> None:
    counts = []
    for dtype in (torch.float32, torch.bfloat16):
        with FlopCounterMode(display=False) as counter:
            mixed = mix_tokens(*operands("cuda", dtype))
        assert (mixed.shape, mixed.dtype) == ((2, 5, 12), dtype)
        counts.append(counter.get_total_flops())
    assert counts == [2 * (3 * 5 * 5) * (2 * 4)] * 2


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize(("B", "N", "h", "d"), CASES)
def test_on_a_gpu(B: int, N: int, h: int, d: int, how: str, dtype: torch.dtype) -> None:
    maps = torch.randn(h, N, N, device="cuda").softmax(-1).to(dtype)
    values = torch.randn(B, N, h * d, device="cuda").to(dtype)
    by_head = values.double().view(B, N, h, d)
    expected = torch.einsum("hij,bjhd->bihd", maps.double(), by_head).flatten(2)
    assert takes_kernel(maps, values)
    mix = mix_tokens if how == "eager" else torch.compile(mix_tokens, fullgraph=True)
    found = mix(maps, values).double()
    assert (found - expected).norm() / expected.norm() < (1e-3 if dtype == torch.float16 else 4e-3)


@pytest.fixture
def launched_on(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The GPU that is the current one at each launch, which computes nothing here."""
    current, found = [], []

    def launch(product: Any, maps: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        found.append(current[-1])
        return torch.empty_like(values)

    def device_of(tensor: torch.Tensor) -> nullcontext[None]:
        current.append(tensor.device)
        return nullcontext()

    monkeypatch.setattr(kernel, "launch", launch)
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    return found


def test_it_runs_on_the_gpu_of_its_operands(
    tensor_cores: list[bool], launched_on: list[torch.device]
) -> None:
    """The second one, where there is none or more than one."""
    second = "cuda:0" if torch.cuda.device_count() == 1 else "cuda:1"
    assert mix_tokens(*operands(second, torch.float16)).device == torch.device(second)
    assert launched_on == [torch.device(second)]


def test_torch_sees_the_product_where_something_watches(
    launched_on: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain eager call goes to the kernel, without torch's dispatcher."""
    seen, operator = [], kernel.mix
    monkeypatch.setattr(
        kernel, "mix", lambda maps, values: seen.append(type(values)) or operator(maps, values)
    )
    maps, values = operands("cpu", torch.float32)
    kernel.multiply(maps, torch.nn.Parameter(values, requires_grad=False))
    assert not seen
    with FlopCounterMode(display=False) as counter:
        kernel.multiply(maps, values)
    assert counter.get_total_flops() == 2 * (3 * 5 * 5) * (2 * 4)
    with BaseTorchFunctionMode():
        kernel.multiply(maps, values)
    kernel.multiply(maps, values.as_subclass(Other))
    assert seen == [torch.Tensor, torch.Tensor, Other]
    assert launched_on == [torch.device("cpu")] * 4


class Other(torch.Tensor):
    """A subclass, which may compute differently."""


@needs_gpu
def test_gradients_and_ensembles_are_left_to_torch() -> None:
    maps = torch.randn(2, 9, 9, device="cuda").softmax(-1).bfloat16()
    values = torch.randn(3, 9, 8, device="cuda").bfloat16()
    assert not takes_kernel(maps.clone().requires_grad_(), values)
    with torch.no_grad():
        assert takes_kernel(maps.clone().requires_grad_(), values)
        together = torch.vmap(mix_tokens)(torch.stack([maps, maps.mT]), torch.stack([values, values]))
        torch.testing.assert_close(
            together[1], mix_tokens(maps.mT.contiguous(), values), atol=2e-2, rtol=2e-2
        )
