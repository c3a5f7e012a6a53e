"""Gradient descent on the loss of a model, as the paper trains it, or by any optimizer of PyTorch."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LinearLR

from posattn import checks
from posattn.theory.protocols import Labelled
from posattn.theory.simplified import SimplifiedViT, logistic_loss
from posattn.theory.task import Batch

Loss = Callable[[Tensor, Tensor], Float[Tensor, ""]]  # of (logits, labels)


class Step(NamedTuple):
    """One update of a gradient run."""

    updates: int  # number of updates so far, including this one
    loss: float  # on the batch of this update, before it


@dataclass(frozen=True)
class Updates:
    """How gradients update a model: the arguments of ``descend`` of the same names."""

    rate: float | None
    value_rate: float | None = None
    optimizer: Optimizer | None = None
    normalize: bool = False
    decay: bool = False

    def optimizer_of(self, model: nn.Module) -> Optimizer:
        """Plain gradient descent at the given rates, or the given optimizer, checked."""
        if (self.rate is None) == (self.optimizer is None):
            # the text of an optimizer has many lines
            kind = None if self.optimizer is None else type(self.optimizer).__name__
            raise ValueError(f"give either a rate or an optimizer, got rate={self.rate} and optimizer={kind}")
        if self.optimizer is None:
            rate = checks.positive("rate", self.rate)
            return SGD(parameter_groups(model, rate, self.value_rate), lr=rate)
        if self.value_rate is not None:
            raise ValueError(f"value_rate goes with a rate, not with an optimizer, got {self.value_rate}")
        if needs_closure(self.optimizer):
            name = type(self.optimizer).__name__
            raise TypeError(f"the optimizer must step without a closure, as Adam does, got {name}")
        own = {id(p) for p in model.parameters()}
        held = [id(p) in own for group in self.optimizer.param_groups for p in group["params"]]
        if not all(held):
            raise ValueError(f"{held.count(False)} parameters of the optimizer are not the model's")
        return self.optimizer


def descend(
    model: nn.Module,
    sample: Callable[[], Labelled],
    steps: int,
    rate: float | None = None,
    *,
    value_rate: float | None = None,
    optimizer: Optimizer | None = None,
    normalize: bool = False,
    decay: bool = False,
    loss: Loss = logistic_loss,
) -> Iterator[Step]:
    """Descent on the loss of the batches that ``sample`` draws; yields after each update.

    Nothing happens until the iterator is advanced.

    Args:
        model: trained in place; parameters that require no gradient stay.
        sample: draws the batch of each step: fresh samples, one of them for single-sample SGD, a fixed batch for
            full-batch descent, ``minibatches`` of a finite training set.
        steps: number of updates.
        rate: η of plain gradient descent, above 0.
        value_rate: the rate of v; default: η. 0 holds v.
        optimizer: replaces plain gradient descent and its rates: one of ``torch.optim`` that needs no closure, built
            on parameters of ``model``. It keeps its state, so that a run can be continued.
        normalize: scale the gradient of each parameter to unit norm before the update.
        decay: the rates fall linearly, to 1/steps of their start at the last step; an optimizer has its own again
            after the run.
        loss: of (logits, labels), a mean over the batch.

    Raises:
        TypeError, ValueError: an argument is out of range, both or neither of ``rate`` and ``optimizer`` are given,
            or the optimizer needs a closure, or holds a parameter that is not the model's.
        FloatingPointError: the loss or its gradient is not finite; the model holds the last parameters at
            which both were.
    """

    def gradient() -> float:
        batch = sample()
        mean = loss(model(batch.patches), batch.labels)
        mean.backward()
        return mean.item()

    return train(model, gradient, steps, Updates(rate, value_rate, optimizer, normalize, decay))


def train(model: nn.Module, gradient: Callable[[], float], steps: int, updates: Updates) -> Iterator[Step]:
    """Update ``model`` by ``gradient``, which adds to the ``.grad`` of its parameters and returns the loss.

    Other arguments and errors are those of ``descend``.
    """
    steps, optimizer = checks.positive_int("steps", steps), updates.optimizer_of(model)
    run = _steps(optimizer, gradient, steps, updates.normalize)
    return _restoring(model, _decaying(optimizer, run, steps) if updates.decay else run)


def _restoring(model: nn.Module, run: Iterator[Step]) -> Iterator[Step]:
    """The updates; a held σ_A is restored after each."""
    held = [module for module in model.modules() if isinstance(module, SimplifiedViT)]
    for step in run:
        for module in held:
            module.restore_diagonal()
        yield step


def _decaying(optimizer: Optimizer, run: Iterator[Step], steps: int) -> Iterator[Step]:
    """The updates at rates that fall linearly; afterwards the optimizer has the rates of its start."""
    rates = copy.deepcopy([group["lr"] for group in optimizer.param_groups])  # tensors change in place
    schedule = LinearLR(optimizer, 1.0, 1 / steps, total_iters=max(1, steps - 1))
    try:
        for step in run:
            yield step
            schedule.step()
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether a step of it needs a function that computes the loss again, as that of LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def value_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters v, one per head."""
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "value"]


def parameter_groups(
    model: nn.Module, rate: float | None, value_rate: float | None = None
) -> list[dict[str, Any]]:
    """Groups of an optimizer: v with a rate of its own, and all other parameters.

    Raises ValueError if ``value_rate`` is negative or the model has no ``value``.
    """
    values = value_parameters(model)
    if value_rate is None:
        value_rate = rate
    elif not values:
        raise ValueError(f"value_rate {value_rate}: {type(model).__name__} has no parameter named value")
    chosen = {id(p) for p in values}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": others}, {"params": values, "lr": checks.finite("value_rate", value_rate, 0.0)}]


def _steps(
    optimizer: Optimizer, gradient: Callable[[], float], steps: int, normalize: bool
) -> Iterator[Step]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    good = [p.detach().clone() for p in parameters]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = gradient()
        gradients = [p.grad for p in parameters if p.grad is not None]
        peaks = [torch.stack(torch.aminmax(g)).abs().amax() for g in gradients]
        if not (math.isfinite(loss) and all(peak.isfinite() for peak in peaks)):
            _copy(good, parameters)
            rate = optimizer.param_groups[0]["lr"]
            raise FloatingPointError(f"loss {loss} or gradient not finite at step {step}, rate {rate:g}")
        _copy(parameters, good)
        if normalize:
            for g, peak in zip(gradients, peaks, strict=True):
                _to_unit_norm(g, peak)
        optimizer.step()
        yield Step(step, loss)


def minibatches(samples: Batch, batch_size: int, *, generator: Generator | None = None) -> Iterator[Batch]:
    """Endless batches of a finite training set, in a new order each epoch; an incomplete last batch is dropped.

    Each batch is the whole set if it has at most ``batch_size`` samples. ``minibatches(...).__next__`` serves as the
    ``sample`` of ``descend``.

    Raises:
        TypeError, ValueError: ``batch_size`` is not an integer of at least 1.
    """
    return _minibatches(samples, checks.positive_int("batch_size", batch_size), generator)


def _minibatches(samples: Batch, batch_size: int, generator: Generator | None) -> Iterator[Batch]:
    n = len(samples.labels)
    while True:
        if n <= batch_size:
            yield samples
            continue
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield type(samples)(*(x[chosen] for x in samples))


def _to_unit_norm(gradient: Tensor, peak: Tensor) -> None:
    tiny = torch.finfo(gradient.dtype).tiny
    gradient /= peak.clamp_min(tiny)  # squares underflow if the loss is almost 0
    gradient /= torch.linalg.vector_norm(gradient).clamp_min(tiny)


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
