"""Trainings that are killed, told to stop or spread over processes give the numbers of one left alone."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from posattn.vision.data.images import ImageSet, load_images
from posattn.vision.data.streams import stream_images
from posattn.vision.training.checkpoints import load_latest
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.loop import evaluate, train

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


def tiny_vit(drop_path_rate: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, drop_path_rate=drop_path_rate, **sizes)


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


def start(target: Callable[..., None], *args: object) -> tuple[BaseProcess, Connection]:
    """A function in a process of its own, and what it sends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["posattn.vision.training.loop"])
    told, tell = context.Pipe()
    process = context.Process(target=target, args=(*args, tell))
    process.start()
    tell.close()
    return process, told


class Child:
    """``train_and_tell`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process, self.told = start(train_and_tell, folder)
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


def train_on_a_stream(folder: Path, told: Connection) -> None:
    """Sends the step of every record. The process leads a session, and two workers decode its pictures."""
    os.setsid()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1, "num_classes": 2}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    stream = stream_images("tiny", "train", folder, image_size=8, workers=2)
    config = TrainConfig(epochs=10000, batch_size=4, record_every=1)
    for record in train(model, stream, config, checkpoints=folder / "kept"):
        told.send(record.step)


@pytest.fixture
def streaming(tmp_path: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """A training on a stream that has begun, and its steps."""
    for number in range(16):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    process, steps = start(train_on_a_stream, tmp_path)
    steps.recv()
    yield process, steps
    process.kill()
    process.join()


def in_session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def wait(until: Callable[[], bool], otherwise: str) -> None:
    """Wait for up to a minute. AssertionError afterwards."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def test_workers_that_decode_end_with_a_killed_training(streaming: tuple[BaseProcess, Connection]) -> None:
    process, _ = streaming
    wait(lambda: len(in_session(process.pid)) >= 3, "no workers")  # there are none between two epochs
    process.kill()
    wait(lambda: not in_session(process.pid), "a worker outlived its parent")


def test_workers_that_decode_outlive_what_tells_their_group_to_stop(
    streaming: tuple[BaseProcess, Connection], tmp_path: Path
) -> None:
    process, steps = streaming
    seen = [steps.recv() for _ in range(5)]
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(EOFError):
        while True:
            seen.append(steps.recv())
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    (kept,) = (tmp_path / "kept").iterdir()
    assert int(kept.stem.removeprefix("step-")) == seen[-1]


def train_as_a_rank(folder: Path, rank: int, ranks: int, port: int, told: Connection) -> None:
    """Sends the losses, the accuracy and the number of images that this rank evaluated."""
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
    }
    os.environ |= {"ACCELERATE_USE_CPU": "true"} | {name: str(value) for name, value in names.items()}
    torch.set_num_threads(1)
    model, data = tiny_vit(drop_path_rate=0.0), few()
    sizes = {"epochs": 2, "batch_size": 32, "accumulation": 2, "record_every": 1, "checkpoint_every": 5}
    config = TrainConfig(**sizes, precision="float32", warmup_epochs=0.5, clip=1.0, ema_decay=0.9)
    losses = [record.loss for record in train(model, data, config, checkpoints=folder)]
    seen: list[int] = []
    accuracy = evaluate(model, data, divide=True, transform=lambda pixels: seen.append(len(pixels)) or pixels)
    told.send((losses, accuracy, sum(seen)))


def test_two_processes_give_the_losses_and_the_accuracy_of_one(tmp_path: Path) -> None:
    """As torchrun starts them; tests/runs/test_ranks.py starts a whole run by torchrun itself."""
    found = {}
    for ranks in (1, 2):
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        all_ranks = [
            start(train_as_a_rank, tmp_path / str(ranks), rank, ranks, port) for rank in range(ranks)
        ]
        found[ranks] = [told.recv() for _, told in all_ranks]
        for process, _ in all_ranks:
            process.join(60)
            assert process.exitcode == 0
    ((losses, accuracy, _),) = found[1]
    for rank in found[2]:
        assert rank[0] == pytest.approx(losses, abs=1e-5)
        assert rank[1] == pytest.approx(accuracy, abs=0.011)  # of 200 images
    assert [seen for *_, seen in found[2]] == [100, 100]
    saved = [load_latest(tmp_path / str(ranks)) for ranks in (1, 2)]
    assert saved[0].step == saved[1].step == 12
    for name, tensor in saved[0].tensors.items():
        assert torch.allclose(saved[1].tensors[name].float(), tensor.float(), atol=1e-4), name
