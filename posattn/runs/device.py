"""The hardware of this machine: processor, instruction set, threads, and the precisions it multiplies natively."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

Precision = Literal["auto", "float32", "bfloat16"]
THREADS = ", torch threads: "  # before their number, at the end of a machine's name
CPUINFO = Path("/proc/cpuinfo")
SETS = {"AVX512": "AVX-512", "DEFAULT": "NEON" if platform.machine() in ("arm64", "aarch64") else "no AVX"}
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # CPU features that multiply bfloat16; bf16 is ARM's


class Choice(NamedTuple):
    """The dtype of matrix products, and the reason."""

    dtype: Literal["float32", "bfloat16"]
    reason: str

    def __str__(self) -> str:
        return f"precision {self.dtype}: {self.reason}"


def choose_precision(setting: Precision, device: str) -> Choice:
    """bfloat16 for ``auto`` if the device multiplies it natively, else float32; any other setting unchanged.

    Args:
        setting: ``auto``, ``float32`` or ``bfloat16``.
        device: a torch device, such as ``cpu`` or ``cuda:0``.
    """
    native, name = native_bfloat16(device), processor(device)
    if setting == "auto":
        verb = "multiplies bfloat16 natively" if native else "has no native bfloat16"
        return Choice("bfloat16" if native else "float32", f"{name} {verb}")
    slow = setting == "bfloat16" and not native
    return Choice(setting, f"as set; {name} only emulates it, many times slower" if slow else "as set")


def refuse_mixed_precision(trainings: Mapping[str, str]) -> None:
    """ValueError naming two trainings of different precisions, as ``auto`` chooses by the device."""
    seen: dict[str, str] = {}
    for name, precision in trainings.items():
        seen.setdefault(precision, name)
    if len(seen) > 1:
        said = ", ".join(f"{name} in {precision}" for precision, name in seen.items())
        raise ValueError(f"trainings differ in precision: {said}; set --train.precision from the start")


@cache
def native_bfloat16(device: str) -> bool:
    """Whether a torch device has bfloat16 instructions that torch uses; emulation does not count."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    used = getattr(_onednn(), "_is_mkldnn_bf16_supported", None)  # also true where it is emulated
    return used is not None and bool(used()) and not BFLOAT16.isdisjoint(cpu_features())


def device_name() -> str:
    """GPU and processor of this machine with instruction set, cores and threads, as text."""
    import torch

    return f"{processor('cuda')}; {full_name('cpu')}" if torch.cuda.is_available() else full_name("cpu")


def full_name(device: str) -> str:
    """A torch device's name; a CPU's with instruction set, cores and threads."""
    import torch

    if torch.device(device).type != "cpu":
        return processor(device)
    return f"{processor(device)}, {os.cpu_count()} cores{THREADS}{torch.get_num_threads()}"


def threads_of(name: str) -> int:
    """The number of torch's threads in the name of a machine with a CPU."""
    return int(name.rpartition(THREADS)[2])


def processor(device: str) -> str:
    """A torch device's name; a CPU's has its instruction set: ``AMD EPYC (x86_64, AVX-512, bfloat16)``."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    capability = torch.backends.cpu.get_cpu_capability()
    parts = [platform.machine(), SETS.get(capability, capability)]
    parts += ["AMX"] if "amx_tile" in cpu_features() else []
    parts += ["bfloat16"] if native_bfloat16("cpu") else []
    return f"{cpu_model()} ({', '.join(parts)})"


@cache
def cpu_model() -> str:
    """The processor's name, as reported by the system."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "CPU"
    return _cpuinfo("model name") or platform.processor() or "CPU"


@cache
def cpu_features() -> frozenset[str]:
    """The processor's features, under the names of Linux and torch: ``avx2``, ``avx512_bf16``, ``amx_tile``, …"""
    import torch

    if capabilities := getattr(torch.cpu, "get_capabilities", None):  # newer torch
        return frozenset(name for name, has in capabilities().items() if has is True)
    return frozenset(_cpuinfo("flags|Features").split())


def _onednn() -> Any:
    """The operators of the library that multiplies bfloat16 on a CPU for torch."""
    import torch

    return torch.ops.mkldnn


def _cpuinfo(key: str) -> str:
    """The first value of a key (a regular expression) in /proc/cpuinfo, empty if there is none."""
    text = CPUINFO.read_text("utf-8", "replace") if CPUINFO.exists() else ""
    found = re.search(rf"^(?:{key})[ \t]*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
