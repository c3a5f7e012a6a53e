"""The parts of `posattn inspect`: which images it takes and keeps, and what it says of them."""

import torch
from rich.progress import Progress

from posattn.recipes.inspect.run import Counted


def test_as_many_examples_are_kept_as_are_asked_for_in_every_pass() -> None:
    images = torch.arange(10.0)[:, None, None, None]
    progress = Progress(disable=True)
    for examples, kept in ((1, 1), (4, 4), (7, 7), (12, 10)):
        batches = Counted(images.split(4), 10, examples, progress, progress.add_task("images"))
        for _ in range(2):
            assert torch.equal(torch.cat(list(batches)), images)
            assert torch.equal(torch.cat(batches.first), images[:kept])
            assert all(map(len, batches.first))  # views of no images would keep all batches in memory
