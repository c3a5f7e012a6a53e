"""Memory that a training frees stays with its process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]

# the pages that are mapped for 128 MiB which are written and freed: by default, then by a training, then after it
SCRIPT = """
import resource, sys, torch
from pathlib import Path
from posattn.recipes.kit.classifiers import fit
from posattn.runs.folder import open_run
from small_trainings import SHORT, few, tiny_vit

def mapped():
    for _ in range(4):  # until freed blocks have found their places
        torch.ones(2**25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = mapped()
with open_run(Path(sys.argv[1]), "images", SHORT) as run:
    fit(tiny_vit(), few(32), few(16), SHORT, 0, run.path, "vit", after=[3])
print(by_default, mapped())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_not_mapped_anew_after_a_training_began(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    by_default, kept = map(int, done.stdout.split())
    assert kept < by_default / 10


def test_another_c_library_is_left_as_it_is(monkeypatch):
    from posattn.vision.training import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())  # one without mallopt
    assert not allocator.keep_freed_memory()
