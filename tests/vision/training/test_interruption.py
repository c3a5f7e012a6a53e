"""Trainings that are killed, told to stop or spread over processes give the numbers of one left alone."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.training.checkpoints import load_latest
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import train

CONFIG = TrainConfig(
    epochs=4,
    batch_size=32,
    warmup_epochs=0.5,
    padding=1,
    flip=True,
    policy="trivial",
    mixup=0.2,
    cutmix=1.0,
    ema_decay=0.9,
    record_every=4,
    checkpoint_every=5,
)
LAUNCHED = """
import json, os, sys, timm, torch
from pathlib import Path
from posattn.vision.data.images import load_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train

torch.manual_seed(0)
sizes = dict(img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=2, in_chans=1, num_classes=10)
model = timm.create_model("vit_tiny_patch16_224", **sizes)
data = load_images("digits").select(torch.arange(200))
sizes = dict(epochs=2, batch_size=32, accumulation=2, precision="float32")
config = TrainConfig(**sizes, warmup_epochs=0.5, clip=1.0, ema_decay=0.9, record_every=1, checkpoint_every=5)
folder = Path(sys.argv[1] + ".checkpoints")
losses = [record.loss for record in train(model, data, config, checkpoints=folder)]
seen = []
accuracy = evaluate(model, data, divide=True, transform=lambda pixels: seen.append(len(pixels)) or pixels)
if os.environ.get("RANK", "0") == "0":
    open(sys.argv[1], "w").write(json.dumps([losses, os.environ.get("WORLD_SIZE", "1"), accuracy, sum(seen)]))
"""


def tiny_vit() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, drop_path_rate=0.2, **sizes)


def few() -> ImageSet:
    return load_images("digits").select(torch.arange(200))


def train_and_tell(folder: Path, told: Connection) -> None:
    """Sends (step, loss) of every record, waiting for an answer to each, then the weights."""
    torch.set_num_threads(1)
    model = tiny_vit()
    for record in train(model, few(), CONFIG, checkpoints=folder):
        told.send((record.step, record.loss))
        told.recv()
    told.send({name: tensor.numpy() for name, tensor in model.state_dict().items()})


class Child:
    """``train_and_tell`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["posattn.vision.training.loop"])
        self.told, told = context.Pipe()
        self.process = context.Process(target=train_and_tell, args=(folder, told))
        self.process.start()
        told.close()
        self.losses: dict[int, float] = {}
        self.weights: dict[str, object] = {}

    def listen(self, count: int = 1000) -> None:
        """Take and answer up to ``count`` messages, fewer where the process ends."""
        with contextlib.suppress(EOFError, ConnectionError):
            for _ in range(count):
                message = self.told.recv()
                if isinstance(message, dict):
                    self.weights = message
                else:
                    self.losses[message[0]] = message[1]
                    self.told.send("go on")

    def end(self, number: int | None = None) -> int | None:
        """Send a signal, hear the rest, and return the exit status."""
        if number is not None and self.process.pid is not None:
            os.kill(self.process.pid, number)
        self.listen()
        self.process.join(60)
        return self.process.exitcode


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[nn.Module, dict[int, float]]:
    model = tiny_vit()
    return model, {record.step: record.loss for record in train(model, few(), CONFIG)}


def check_same(
    child: Child, losses: dict[int, float], uninterrupted: tuple[nn.Module, dict[int, float]]
) -> None:
    model, expected = uninterrupted
    assert losses == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(torch.from_numpy(child.weights[name]), tensor), name


def test_killed_at_random_moments(tmp_path: Path, uninterrupted: tuple[nn.Module, dict[int, float]]) -> None:
    draw, losses, killed = random.Random(0), {}, 0
    for _ in range(4):
        child = Child(tmp_path)
        child.listen(draw.randrange(5))
        killed += child.end(signal.SIGKILL) == -signal.SIGKILL
        losses |= child.losses
    assert killed >= 2
    child = Child(tmp_path)
    assert child.end() == 0
    check_same(child, losses | child.losses, uninterrupted)


def test_told_to_stop(tmp_path: Path, uninterrupted: tuple[nn.Module, dict[int, float]]) -> None:
    first = Child(tmp_path)
    first.listen(2)
    assert first.end(signal.SIGTERM) == 128 + signal.SIGTERM
    saved = max(int(path.stem.removeprefix("step-")) for path in tmp_path.iterdir())
    assert saved >= max(first.losses)
    second = Child(tmp_path)
    assert second.end() == 0
    assert min(second.losses) > saved
    check_same(second, first.losses | second.losses, uninterrupted)


STREAMED = """
import sys, timm, torch
from pathlib import Path
from posattn.vision.data.streams import stream_images
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train

torch.set_num_threads(1)
torch.manual_seed(0)
sizes = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, num_classes=2)
model = timm.create_model("vit_tiny_patch16_224", **sizes)
stream = stream_images("tiny", "train", sys.argv[1], image_size=8, workers=2)
config = TrainConfig(epochs=10000, batch_size=4, record_every=1)
for record in train(model, stream, config, checkpoints=Path(sys.argv[1], "kept")):
    print(record.step, flush=True)
"""


def start_stream(tmp_path: Path) -> subprocess.Popen[str]:
    """A training whose pictures are decoded by two workers."""
    for number in range(16):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, "-c", STREAMED, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def in_session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def test_workers_that_decode_end_with_a_killed_training(tmp_path: Path) -> None:
    process = start_stream(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    assert len(in_session(process.pid)) >= 3
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while in_session(process.pid):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def test_workers_that_decode_outlive_what_tells_their_group_to_stop(tmp_path: Path) -> None:
    process = start_stream(tmp_path)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(6)]
    os.killpg(process.pid, signal.SIGTERM)
    rest, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    (kept,) = (tmp_path / "kept").iterdir()
    assert int(kept.stem.removeprefix("step-")) == [*seen, *map(int, rest.split())][-1]


def test_two_processes_give_the_losses_and_the_accuracy_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(LAUNCHED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "true"
    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path / "one")])
    exec(compile(LAUNCHED, "script.py", "exec"), {})
    command = [*torchrun, str(script), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert (one[1], two[1]) == ("1", "2")
    assert two[0] == pytest.approx(one[0], abs=1e-5)
    assert two[2] == pytest.approx(one[2], abs=0.011)  # of 200 images
    assert (one[3], two[3]) == (200, 100)
    saved = [load_latest(tmp_path / f"{name}.checkpoints") for name in ("one", "two")]
    assert saved[0].step == saved[1].step == 12
    for name, tensor in saved[0].tensors.items():
        assert torch.allclose(saved[1].tensors[name].float(), tensor.float(), atol=1e-4), name
