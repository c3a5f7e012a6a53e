"""A model run with other heads converted each time; blocks before the first change are not run again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.choice import Kinds
from posattn.vision.convert.heads import KINDS, TABLE
from posattn.vision.convert.layers import attention_of
from posattn.vision.convert.quality import Outputs, joined, outputs
from posattn.vision.convert.replacement import heads_module, replacement
from posattn.vision.models.attention import MapsHNN
from posattn.vision.modes import evaluating

Advance = Callable[[int], None]  # called with the number of runs over a batch that are done


class Subject(NamedTuple):
    """A model, the attention of its blocks and, of each way to keep a head, the maps that each block's heads get."""

    model: nn.Module
    layers: Mapping[int, nn.Module]
    maps: Mapping[str, Mapping[int, MapsHNN]]


@torch.no_grad()
def subject_of(
    model: Any, averages: Mapping[int, MapsHNN], window: int, kinds: Sequence[str] = KINDS
) -> Subject:
    """The maps of every way to keep a head, from the average ones."""
    vit = adapter_of(model)
    grid, place = vit.grid(), vit.place()

    def kept(kind: str, number: int, maps: MapsHNN) -> MapsHNN:
        attn = vit.plain(vit.attention(number))
        return heads_module(kind, maps, len(maps), place, grid, window, attn).attention_maps()

    found = {kind: {n: kept(kind, n, maps) for n, maps in averages.items()} for kind in kinds}
    return Subject(model, attention_of(model), found)


@torch.no_grad()
def outputs_of_choices(
    subject: Subject,
    choices: Sequence[Kinds],
    batches: Sequence[Tensor],
    base: Kinds | None = None,
    advance: Advance = lambda _: None,
) -> list[Outputs]:
    """The outputs of a model with the heads of each choice converted, on all batches.

    Args:
        subject: the model, in evaluation mode while this runs, and the maps to convert by.
        choices: of each block to change, all heads that are converted in it.
        batches: images as the model takes them.
        base: what is converted in all choices, but for the blocks that a choice names.
        advance: called after each run over a batch.
    """
    model: Any = subject.model
    parts: list[list[Outputs]] = [[] for _ in choices]
    layers = {n: layer_of(subject, n, kinds) for n, kinds in (base or {}).items() if kinds}
    with evaluating(model), swapped(model, layers):
        for batch in batches:
            inputs, unchanged = whole_run(model, batch)
            for own, choice in zip(parts, choices, strict=True):
                changes = any(choice.values())
                own.append(rerun(subject, batch, inputs, choice) if changes else unchanged)
                advance(1)
    return [joined(own) for own in parts]


def rerun(subject: Subject, batch: Tensor, inputs: Mapping[int, Tensor], choice: Kinds) -> Outputs:
    """The outputs on a batch, from the first changed block on; the choice changes one."""
    model: Any = subject.model
    changed = {number: kinds for number, kinds in choice.items() if kinds}
    layers = {number: layer_of(subject, number, kinds) for number, kinds in changed.items()}
    first = min(layers)
    with swapped(model, layers), resumed(model, first, inputs[first]):
        return outputs(model, batch)


def layer_of(subject: Subject, number: int, kinds: Mapping[int, str]) -> nn.Module:
    """The attention of a block with converted heads, all by dense maps."""
    maps = next(iter(subject.maps.values()))[number].clone()
    for head, kind in kinds.items():
        maps[head] = subject.maps[kind][number][head]
    vit, tables = adapter_of(subject.model), dict.fromkeys(kinds, TABLE)
    return replacement(vit, subject.layers[number], tables, maps, 1).eval()


def block_inputs(model: Any, batch: Tensor) -> dict[int, Tensor]:
    """The input of each block."""
    return whole_run(model, batch)[0]


def whole_run(model: Any, batch: Tensor) -> tuple[dict[int, Tensor], Outputs]:
    """The input of each block, and the outputs."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        return lambda _, inputs: found.update({number: inputs[0]})

    with ExitStack() as stack:
        for number, block in enumerate(adapter_of(model).blocks):
            stack.callback(block.register_forward_pre_hook(keep(number)).remove)
        return found, outputs(model, batch)


@contextmanager
def swapped(model: Any, layers: Mapping[int, nn.Module]) -> Iterator[None]:
    """While it lasts, some blocks have another attention."""
    vit = adapter_of(model)
    before = {number: vit.attention(number) for number in layers}
    try:
        for number, layer in layers.items():
            vit.replace(number, layer)
        yield
    finally:
        for number, layer in before.items():
            vit.replace(number, layer)


@contextmanager
def resumed(model: Any, first: int, tokens: Tensor) -> Iterator[None]:
    """While it lasts, blocks before ``first`` are passed by, and that one is given ``tokens``."""

    def pass_by(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x

    blocks: Any = adapter_of(model).blocks
    with ExitStack() as stack:
        for block in blocks[:first]:
            if "forward" in vars(block):  # one of its own, as accelerate's hooks give it
                stack.callback(setattr, block, "forward", block.forward)
            else:
                stack.callback(delattr, block, "forward")
            block.forward = pass_by
        hook = blocks[first].register_forward_pre_hook(lambda _, inputs: (tokens, *inputs[1:]))
        stack.callback(hook.remove)
        yield
