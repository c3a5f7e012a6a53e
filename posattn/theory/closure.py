"""The population flow of a model and a task, if gradient descent stays in its four numbers."""

from typing import Any

from torch.nn.utils import parametrize

from posattn.theory.flow import PopulationFlow
from posattn.theory.requirements import check_shapes, refuse_overrides
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask

FIXED = {
    SimplifiedViT: ("forward", "logits", "attention", "activation", "normalize", "held_scores"),
    StructuredTask: (
        "sample",
        "sample_signal",
        "draw_labels",
        "draw_sets",
        "draw_signal",
        "observe",
        "draw_noise",
    ),
}


def population_flow(
    model: Any, task: Any, *, samples: int = 4000, seed: int = 0, importance: bool = False
) -> PopulationFlow:
    """The population flow of a model on a task, with their D, C, q, p, ν, σ_A, κ and σ.

    Args:
        model: a SimplifiedViT of the paper's φ and softmax; the values of A and v do not matter.
        task: a StructuredTask on sets of one size that hold every patch.
        samples, seed, importance: as in ``PopulationFlow``.

    Raises:
        TypeError, ValueError: descent on them does not stay in (α, β, γ, ρ); the message names the reason.
    """
    for given, kind in ((model, SimplifiedViT), (task, StructuredTask)):
        refuse_overrides("the population flow", given, kind, FIXED[kind])
    refuse_options(model)
    partition = task.partition.as_partition("the population flow")
    sizes = partition.sizes.tolist()
    if len(set(sizes)) > 1:
        raise ValueError(f"the population flow needs sets of one size, got sizes {sorted(set(sizes))}")
    if sum(sizes) < partition.num_patches:
        left = partition.num_patches - sum(sizes)
        raise ValueError(f"the population flow needs every patch in a set, got {left} in none")
    check_shapes(model, task)
    return PopulationFlow(
        num_patches=model.num_patches,
        set_size=sizes[0],
        noise_rate=task.noise_rate,
        power=model.power,
        linear=model.linear,
        diagonal=model.diagonal,
        scale=model.scale,
        noise_std=task.noise_std,
        samples=samples,
        seed=seed,
        importance=importance,
    )


def refuse_options(model: SimplifiedViT) -> None:
    """Raise ValueError for an option of the model under which the four numbers are not enough."""
    refused = {
        "an activation other than z^p + ν z": model.given_activation is not None,
        "a map of the scores other than the softmax": model.given_normalize is not None,
        "a trained diagonal": not model.hold_diagonal,
        "scores parametrised as P Pᵀ": parametrize.is_parametrized(model, "scores"),
        "a parametrised value": parametrize.is_parametrized(model, "value"),
        "parameters that require no gradient": not all(p.requires_grad for p in model.parameters()),
        f"a value of shape {tuple(model.value.shape)}": model.value.ndim != 1,
    }
    for option, present in refused.items():
        if present:
            raise ValueError(f"the population flow does not close for {option}")
