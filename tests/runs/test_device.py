"""What is said of the machine, and the precision that follows from it, on machines that are made up."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from posattn.runs import device
from posattn.runs.device import (
    choose_precision,
    cpu_features,
    device_name,
    full_name,
    native_bfloat16,
    processor,
)

AVX2 = "processor\t: 0\nmodel name\t: AMD EPYC 7763 64-Core\nflags\t\t: fpu sse4_2 avx avx2 fma bmi2\n"
NATIVE = AVX2.replace("avx2", "avx2 avx512f avx512_bf16")
EMULATED = AVX2.replace("avx2", "avx2 avx512f avx512bw avx512vl avx512_vnni")
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\nCPU part\t: 0xd40\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine by its /proc/cpuinfo, as torch without ``get_capabilities`` sees it."""

    def make(cpuinfo: str, onednn: bool = True) -> None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        bf16 = {"_is_mkldnn_bf16_supported": lambda: True} if onednn else {}
        monkeypatch.setattr(device, "_onednn", lambda: SimpleNamespace(**bf16))
        forget()

    yield make
    forget()


def forget() -> None:
    for cached in (native_bfloat16, cpu_features, device.cpu_model):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "onednn", "dtype"),
    [
        (NATIVE, True, "bfloat16"),
        (NATIVE.replace("avx512_bf16", "amx_tile amx_bf16"), True, "bfloat16"),
        (ARM, True, "bfloat16"),
        (ARM, False, "float32"),  # torch without oneDNN has nothing that uses it
        (AVX2, True, "float32"),
        (EMULATED, True, "float32"),  # oneDNN says yes there too
        ("", True, "float32"),  # nothing is known
    ],
    ids=["AVX-512", "AMX", "ARM", "no oneDNN", "AVX2", "emulated", "unknown"],
)
def test_auto_is_bfloat16_where_it_is_native(machine, cpuinfo: str, onednn: bool, dtype: str) -> None:
    machine(cpuinfo, onednn)
    assert choose_precision("auto", "cpu").dtype == dtype
    asked = choose_precision("bfloat16", "cpu")
    assert asked.dtype == "bfloat16"
    assert ("only emulates it" in asked.reason) == (dtype == "float32")
    assert choose_precision("float32", "cpu") == ("float32", "as set")


def test_the_line_names_the_processor_and_why(machine) -> None:
    machine(AVX2)
    line = str(choose_precision("auto", "cpu"))
    assert line.startswith("precision float32: AMD EPYC 7763 64-Core (")
    assert line.endswith(") has no native bfloat16")


def test_a_gpu_is_asked_for_what_it_does_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    forget()
    assert str(choose_precision("auto", "cuda:0")) == "precision float32: Tesla T4 has no native bfloat16"
    assert asked == [False]
    assert choose_precision("auto", "mps").dtype == "float32"
    forget()


def test_what_runs_on_one_device_does_not_name_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert device_name() == f"Tesla T4; {full_name('cpu')}"
    assert full_name("cuda:0") == "Tesla T4"
    assert "Tesla" not in full_name("cpu")


def test_torch_and_linux_agree_on_this_processor() -> None:
    if not device.CPUINFO.exists() or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("only one source")
    of_linux = set(device._cpuinfo("flags|Features").split())
    shared = {"avx2", "avx512_bf16", "amx_bf16", "amx_tile", "bf16"}
    assert cpu_features() & shared == of_linux & shared


def test_the_device_is_named_with_its_instruction_set_and_threads() -> None:
    name = device_name()
    assert processor("cpu") in name
    assert f"threads: {torch.get_num_threads()}" in name
    assert torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512") in name
