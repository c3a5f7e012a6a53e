"""Kill runs again and again, resume them, and compare what they end with to runs that were left alone.

    python tests/kill_many.py [RECIPE ...] [--kills 20] [--jobs 2]

Not part of the test suite: a recipe takes minutes. Each start ends by SIGKILL of the parent process alone, after a
random number of new lines in metrics.jsonl or a random time; the last start goes to the end. Numbers must be equal and
weights the same to the bit; what a clock measured is left out.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPES = ["demo", "images", "shuffle", "transplant", "jigsaw", "score-init", "pruned-maps"]
RECIPES += ["content-heads", "structured-vit"]
MEASURED = {"timing", "page"}  # timings, and the page that quotes them


def start(recipe: str, folder: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "posattn", "run", recipe, "--smoke", "--resume", "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, "--jobs", str(jobs)], env=environment, start_new_session=True, **quiet)  # type: ignore[call-overload]


def lines(folder: Path) -> int:
    journal = folder / "metrics.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def killed(process: subprocess.Popen[bytes], folder: Path, draw: random.Random) -> bool:
    """Kill the parent at a random moment. Whether it was still running."""
    wanted, latest = lines(folder) + draw.randint(1, 12), time.monotonic() + draw.uniform(5, 40)
    while process.poll() is None and lines(folder) < wanted and time.monotonic() < latest:
        time.sleep(draw.uniform(0.01, 0.1))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def left_over(session: int) -> list[int]:
    """Processes of a session that have not ended a few seconds after its leader."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
        if not found:
            return []
        time.sleep(0.2)
    return found


def ended(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The numbers and the weights of a finished run."""
    result = json.loads((folder / "result.json").read_text())
    numbers = {key: value for key, value in result.items() if key not in MEASURED}
    return numbers, {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def finish(recipe: str, folder: Path, jobs: int) -> None:
    process = start(recipe, folder, jobs)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"{recipe}: {said.decode().strip()}")


def attack(recipe: str, kills: int, jobs: int, place: Path, draw: random.Random) -> str:
    whole, attacked = place / f"{recipe}-whole", place / recipe
    finish(recipe, whole, jobs)
    done = survivors = 0
    for _ in range(kills):
        process = start(recipe, attacked, jobs)
        done += killed(process, attacked, draw)
        survivors += bool(left_over(process.pid))
    finish(recipe, attacked, jobs)
    (numbers, weights), (expected, files) = ended(attacked), ended(whole)
    same = [name for name in files if weights.get(name) == files[name]]
    return (
        f"{recipe}: {done} of {kills} starts killed under way, workers outlived {survivors}; "
        f"numbers {'equal' if numbers == expected else 'DIFFERENT'}; {len(same)} of {len(files)} files the same"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for recipe in given.recipes:
            print(attack(recipe, given.kills, given.jobs, Path(place), random.Random(0)), flush=True)


if __name__ == "__main__":
    main()
