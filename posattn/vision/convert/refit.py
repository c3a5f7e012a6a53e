"""Refit: after a conversion, the linear layers that add to the tokens are solved for again by least squares.

Each block adds to its tokens twice: by the output projection of its attention, and by the last linear layer of its MLP.
Block by block, both are corrected so that the tokens of the converted model come closest to the original's, given what
the converted model computes up to there. No gradients are used; the only choice, of the ridge, is made on held-out
pictures.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import reduce
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posattn.vision.convert.adapters.find import adapter_of
from posattn.vision.convert.parts import computed
from posattn.vision.convert.quality import outputs
from posattn.vision.convert.reruns import block_inputs, resumed
from posattn.vision.modes import evaluating, in_single, uncompiled

RIDGES = (0.01, 0.1, 1.0, 10.0)  # relative to the mean square of the inputs
HELD = 5  # one picture of so many is held out to choose the ridge
# in timm and DINOv2, in transformers' ViT, in torchvision
SECOND_NORMS = (
    "norm2",
    "layernorm_after",
    "ln_2",
)
Advance = Callable[[int], None]  # called with the number of blocks that are done


class Half(NamedTuple):
    """The attention or the MLP of a block, by the linear layer that ends it."""

    layer: nn.Linear
    scale: Float[Tensor, " d"]  # of the layer's output as it is added to the tokens


class Passed(NamedTuple):
    """What was seen of a batch in a block."""

    tokens: list[Tensor]  # before the block, between attention and MLP, and after it; (n, N, d)
    inputs: dict[nn.Linear, Tensor]  # of the linear layers, in the order in which they ran
    outputs: dict[nn.Linear, Tensor]


class Equations(NamedTuple):
    """Sums over tokens from which a correction of a linear layer is solved, in double precision."""

    gram: Float[Tensor, "k k"]  # of the layer's inputs, with a 1 for its bias
    moment: Float[Tensor, "k d"]  # of the inputs and what their outputs lack

    def plus(self, other: "Equations") -> "Equations":
        """The sums over the tokens of both."""
        return Equations(self.gram + other.gram, self.moment + other.moment)


@torch.no_grad()
def refit(
    model: nn.Module, original: nn.Module, batches: Sequence[Tensor], advance: Advance = lambda _: None
) -> None:
    """Correct the linear layers of a converted model in place, without gradients.

    The tokens of all batches are held for both models: 16 bytes per picture, token and channel. A model of half
    precision is refitted in float32, and is of its own type again at the end.

    Args:
        model: the converted model.
        original: the model that it was converted from.
        batches: images as the models take them.
        advance: called after each block.

    Raises:
        ValueError: fewer than five pictures.
        TypeError: a block does not add the output of a linear layer to its tokens, up to a factor per channel.
    """
    count = sum(len(batch) for batch in batches)
    if count < HELD:
        raise ValueError(f"refitting needs at least {HELD} pictures, got {count}")
    batches = [single(batch) for batch in batches]
    check_refit(model, batches[0][:1])  # before the first block is changed
    with (
        evaluating(model),
        evaluating(original),
        in_single(model),
        in_single(original),
        uncompiled(model),
        uncompiled(original),
    ):
        changed, target = ([block_inputs(m, batch)[0] for batch in batches] for m in (model, original))
        for number in range(len(adapter_of(model).blocks)):
            wanted = [passed(original, number, *pair).tokens for pair in zip(batches, target, strict=True)]
            for place in (1, 2):
                correct(model, number, place, batches, changed, [tokens[place] for tokens in wanted])
            target = [tokens[2] for tokens in wanted]
            changed = [passed(model, number, *pair).tokens[2] for pair in zip(batches, changed, strict=True)]
            advance(1)


@torch.no_grad()
def check_refit(model: nn.Module, images: Tensor) -> None:
    """Raise the TypeError that ``refit`` would."""
    images = single(images)
    with evaluating(model), in_single(model), uncompiled(model):
        for number, tokens in block_inputs(model, images).items():
            for place in (1, 2):
                half_of(model, number, place, images, tokens)


def single(images: Tensor) -> Tensor:
    """Images in float32 or better."""
    return images.to(torch.promote_types(images.dtype, torch.float32))


def correct(
    model: nn.Module,
    number: int,
    place: int,
    batches: Sequence[Tensor],
    tokens: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> None:
    """Correct the attention (place 1) or the MLP (2) of a block towards the tokens that are wanted after it."""
    half = half_of(model, number, place, batches[0][:1], tokens[0][:1])
    numbers = torch.arange(sum(map(len, batches))).split([len(batch) for batch in batches])

    def sums(picture: Tensor, batch: Tensor, own: Tensor, goal: Tensor) -> tuple[Equations, Equations]:
        found = passed(model, number, batch, own, place)
        lack = (goal - found.tokens[place]) / half.scale
        lack = lack.where(half.scale != 0, 0)  # what a scale of 0 removes cannot be corrected
        held = (picture % HELD == HELD - 1).to(own.device)
        inputs, bias = found.inputs[half.layer], half.layer.bias is not None
        return equations(inputs[~held], lack[~held], bias), equations(inputs[held], lack[held], bias)

    parts = (sums(*each) for each in zip(numbers, batches, tokens, wanted, strict=True))
    fitted, held = reduce(lambda one, two: (one[0].plus(two[0]), one[1].plus(two[1])), parts)
    add(half.layer, solved(fitted, held))


def half_of(model: nn.Module, number: int, place: int, batch: Tensor, tokens: Tensor) -> Half:
    """The last linear layer of the attention (place 1) or MLP (2), and how its output is scaled."""
    found = passed(model, number, batch, tokens, place)
    change, part = found.tokens[place] - found.tokens[place - 1], ("attention", "MLP")[place - 1]
    for layer, output in reversed(found.outputs.items()):
        if output.shape == change.shape:
            peak = output.abs().flatten(0, -2).argmax(0, keepdim=True)
            most, moved = (part.flatten(0, -2).gather(0, peak)[0] for part in (output, change))
            scale = torch.where(most == 0, 0, moved / most)
            if torch.allclose(output * scale, change, rtol=1e-3, atol=1e-3 * change.abs().max().item()):
                if which := computed(layer):
                    raise TypeError(
                        f"block {number} cannot be refitted: the {which} that its {part} ends with is computed"
                    )
                return Half(layer, scale)
    raise TypeError(
        f"block {number} cannot be refitted: its {part} does not add the output of a linear layer"
    )


def equations(inputs: Float[Tensor, "n N k"], lack: Float[Tensor, "n N d"], bias: bool) -> Equations:
    """The sums over the tokens of some pictures."""
    rows = inputs.flatten(0, 1)
    if bias:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    return Equations((rows.T @ rows).cpu().double(), (rows.T @ lack.flatten(0, 1)).cpu().double())


def solved(fitted: Equations, held: Equations) -> Float[Tensor, "k d"]:
    """The correction of least squares, with the ridge that is best on held-out pictures; 0 if none helps there."""
    errors = {ridge: error(ridged(fitted, ridge), held) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)
    return ridged(fitted.plus(held), best) * (errors[best] < 0)


def ridged(sums: Equations, ridge: float) -> Float[Tensor, "k d"]:
    """The C that minimises the squared error of inputs times C from what is lacking, plus ridge ``|C|²``."""
    penalty = ridge * sums.gram.diagonal().mean()
    factor = torch.linalg.cholesky(sums.gram + penalty * torch.eye(len(sums.gram)).to(sums.gram))
    return torch.cholesky_solve(sums.moment, factor)


def error(correction: Float[Tensor, "k d"], sums: Equations) -> float:
    """The squared error with a correction less that without."""
    return (correction * (sums.gram @ correction - 2 * sums.moment)).sum().item()


def add(layer: nn.Linear, correction: Float[Tensor, "k d"]) -> None:
    """Add a correction to the weight and the bias of a layer."""
    width = layer.in_features
    layer.weight.add_(correction[:width].T.to(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(correction[width].to(layer.bias))


class Done(Exception):
    """Ends a forward pass within a model."""


def passed(model: nn.Module, number: int, batch: Tensor, tokens: Tensor, place: int = 2) -> Passed:
    """Run a block on the tokens that enter it, to its MLP (place 1) or to its end (2), and nothing after it."""
    block = adapter_of(model).blocks[number]
    found = Passed([tokens], {}, {})

    def keep(layer: Any, given: Any, output: Tensor) -> None:
        found.inputs[layer], found.outputs[layer] = given[0], output

    def reach(_: Any, given: Any, output: Any = None) -> None:
        value = given if output is None else output
        found.tokens.append(value[0] if isinstance(value, tuple) else value)
        if len(found.tokens) > place:
            raise Done

    with ExitStack() as stack:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(keep).remove)
        stack.callback(second_norm(block, number).register_forward_pre_hook(reach).remove)
        stack.callback(block.register_forward_hook(reach).remove)
        stack.enter_context(resumed(model, number, tokens))
        with suppress(Done):
            outputs(model, batch)
    return found


def second_norm(block: nn.Module, number: int) -> nn.Module:
    """The norm before the MLP, whose input is the tokens between the halves of a block."""
    for name in SECOND_NORMS:
        if isinstance(found := getattr(block, name, None), nn.Module):
            return found
    raise TypeError(
        f"block {number} ({type(block).__name__}) cannot be refitted: it has no norm before its MLP"
    )
