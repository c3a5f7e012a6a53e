"""Descent in law against descent that builds the patches: the same step, the same moments, the same runs."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from posattn.bench.theory import step_seconds
from posattn.structure.association import patch_association
from posattn.structure.partition import Partition
from posattn.theory.descent import descend
from posattn.theory.in_law import Draw, backward_in_law, descend_in_law, draw, unit_residue
from posattn.theory.simplified import SimplifiedViT, encode_positions, logistic_loss
from posattn.theory.task import StructuredTask

STD = 0.4


def case(generator: Generator, power: int = 3, num_patches: int = 12, dim: int = 7):  # type: ignore[no-untyped-def]
    """A task and a model with every parameter in general position, in float64."""
    feature = torch.randn(dim, generator=generator, dtype=torch.double)
    partition = Partition.contiguous(num_patches, 3)
    task = StructuredTask(partition, dim=dim, noise_rate=0.3, noise_std=STD, feature=feature)
    model = SimplifiedViT(num_patches, dim, power, 0.1, 0.7, 1.5, init_std=0.3, generator=generator)
    return task, model.double()


def by_autograd(model: SimplifiedViT, patches: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor]:
    loss = logistic_loss(model(patches), labels)
    return loss.item(), *torch.autograd.grad(loss, [model.scores, model.value])


def gradient_in_law(model: SimplifiedViT, task: StructuredTask, batch: Draw) -> tuple[float, Tensor, Tensor]:
    model.zero_grad()
    loss = backward_in_law(model, task, batch)
    assert model.scores.grad is not None
    assert model.value.grad is not None
    return loss, model.scores.grad.clone(), model.value.grad.clone()


@pytest.mark.parametrize("power", [3, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_given_the_draw_the_gradient_is_that_of_patches_built_from_it(
    generator: Generator, power: int, aligned: bool
) -> None:
    """All but the part of ∂L/∂v orthogonal to w* and v, whose law the moments hold."""
    task, model = case(generator, power)
    if aligned:
        model.value.data = 0.3 * task.feature
    batch = draw(task, 5, generator=generator)
    loss, by_scores, by_value = gradient_in_law(model, task, batch)
    value, feature = model.value.detach(), task.feature
    direction, _ = unit_residue(value, value @ feature, feature)
    if aligned:
        assert direction.norm() < 1e-6 or abs(direction @ feature) < 1e-6
    rest = torch.randn(5, 12, 7, generator=generator, dtype=torch.double)
    for axis in (feature, direction):
        rest -= (rest @ axis)[..., None] * axis
    noise = STD * (batch.along[..., None] * direction + rest)
    expected = by_autograd(model, batch.signal[..., None] * feature + noise, batch.labels)
    assert loss == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(by_scores, expected[1], rtol=1e-10, atol=1e-12)
    for axis in (feature, direction):
        torch.testing.assert_close(by_value @ axis, expected[2] @ axis, rtol=1e-10, atol=1e-12)


def test_the_noise_across_is_orthogonal_to_feature_and_value(generator: Generator) -> None:
    task, model = case(generator)
    batch = draw(task, 4, generator=generator)
    other = batch._replace(across=torch.randn(7, generator=generator, dtype=torch.double))
    values = [gradient_in_law(model, task, b)[2] for b in (batch, other)]
    difference = values[0] - values[1]
    assert difference.norm() > 1e-6
    assert abs(difference @ task.feature) < 1e-12
    assert abs(difference @ model.value.detach()) < 1e-12


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-7, 1e-3])
def test_a_value_almost_along_the_feature_leaves_no_feature_in_the_residue(
    generator: Generator, length: float
) -> None:
    """In float32, where v - <v, w*> w* is rounding and may point along w*."""
    feature = torch.nn.functional.normalize(torch.randn(512, generator=generator), dim=0)
    value = 0.005 * feature + length * torch.randn(512, generator=generator) / 512**0.5
    direction, _ = unit_residue(value, value @ feature, feature)
    assert abs(direction @ feature) < 0.01


def gradient_samples(batch_size: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """(draws, entries) of (loss, ∂L/∂A, ∂L/∂v) in law and with patches, at one model."""
    task, model = case(Generator().manual_seed(1), num_patches=6, dim=4)
    task.feature = torch.eye(4, dtype=torch.double)[0]
    model.value.data = torch.tensor([0.4, 0.5, 0.0, 0.0], dtype=torch.double)  # two axes of pure noise
    one, other = Generator().manual_seed(2), Generator().manual_seed(3)
    in_law, built = [], []
    for _ in range(draws):
        loss, by_scores, by_value = gradient_in_law(model, task, draw(task, batch_size, generator=one))
        in_law.append(torch.cat([torch.tensor([loss]), by_scores.flatten(), by_value]))
        batch = task.sample(batch_size, generator=other)
        loss, by_scores, by_value = by_autograd(model, batch.patches, batch.labels)
        built.append(torch.cat([torch.tensor([loss]), by_scores.flatten(), by_value]))
    return torch.stack(in_law).numpy(), torch.stack(built).numpy()


@pytest.mark.usefixtures("unchecked")
def test_moments_of_the_gradient_agree_entry_by_entry() -> None:
    """Means and covariances over 2,000 draws a side; at the true law 1e-4 of such tests fail (Bonferroni)."""
    in_law, built = gradient_samples(batch_size=2, draws=2000)
    varying = built.std(0) > 0
    assert varying.sum() == 1 + 30 + 4  # all but the diagonal of A
    assert (in_law[:, ~varying] == 0).all()
    scale, center = built[:, varying].std(0), built[:, varying].mean(0)
    pairs = np.triu_indices(varying.sum())
    moments = []
    for sample in (in_law, built):
        scaled = (sample[:, varying] - center) / scale
        products = (scaled[:, :, None] * scaled[:, None, :])[:, *pairs]
        moments.append(np.concatenate([scaled, products], axis=1))
    error = np.sqrt(sum(m.var(0) / len(m) for m in moments))
    z = (moments[0].mean(0) - moments[1].mean(0)) / error
    bound = stats.norm.isf(1e-4 / 2 / z.size)
    assert z.size == 35 + 35 * 36 // 2
    assert np.abs(z).max() < bound
    assert 0.5 < z.std() < 1.5  # nor do they agree too well to be independent draws


def run_figures(in_law: bool, seed: int) -> list[float]:
    """(early loss, late loss, attention inside the sets, <v, w*>, |v⊥|) of a run of 80 steps."""
    generator = Generator().manual_seed(seed)
    feature = torch.eye(6, dtype=torch.double)[0]
    task = StructuredTask(Partition.contiguous(12, 3), dim=6, noise_rate=0.8, noise_std=STD, feature=feature)
    model = SimplifiedViT(12, 6, 3, 0.1, 1.0, 1.0, init_std=0.0).double()
    model.value.data = 0.1 * feature
    if in_law:
        steps = descend_in_law(model, task, 8, 80, 0.3, generator=generator)
    else:
        steps = descend(model, lambda: task.sample(8, generator=generator), 80, 0.3)
    losses = [step.loss for step in steps]
    value, mass = model.value.detach(), patch_association(model.scores, task.partition).mass
    early, late = np.mean(losses[:20]), np.mean(losses[-20:])
    return [float(x) for x in (early, late, mass, value[0], value[1:].norm())]


@pytest.mark.usefixtures("unchecked")
def test_runs_agree_in_distribution() -> None:
    """Kolmogorov-Smirnov over 50 seeds a side, five figures; at the true law 1e-4 of such tests fail."""
    in_law = np.array([run_figures(True, seed) for seed in range(50)])
    built = np.array([run_figures(False, seed) for seed in range(50, 100)])
    assert built[:, 1].mean() < 0.8 * built[:, 0].mean()  # they learn
    for one, other in zip(in_law.T, built.T, strict=True):
        assert one.std() > 0
        assert stats.ks_2samp(one, other).pvalue > 1e-4 / 5


def test_a_run_is_fixed_by_its_generator_and_holds_the_diagonal() -> None:
    runs = []
    for _ in range(2):
        generator = Generator().manual_seed(5)
        task = StructuredTask(Partition.contiguous(12, 3), dim=6, noise_rate=0.3, generator=generator)
        model = SimplifiedViT.analysis(task)
        runs.append((list(descend_in_law(model, task, 4, 20, 0.01, generator=generator)), model))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1].scores, runs[1][1].scores)
    assert (runs[0][1].scores.diagonal() == 2.0).all()


def test_many_patches_of_a_large_dimension_run() -> None:
    """Patches of this size would take 64 GiB."""
    task = StructuredTask(Partition.contiguous(1024, 8), dim=2**18, noise_rate=0.25)
    model = SimplifiedViT.analysis(task)
    before = model.value.detach().clone()
    losses = [step.loss for step in descend_in_law(model, task, 64, 2, 1e-6)]
    assert np.isfinite(losses).all()
    assert not torch.equal(before, model.value.detach())


def test_the_speed_measure_times_both_kinds() -> None:
    seconds = step_seconds(32, 4, 16, 4, rounds=3)
    assert len(seconds.patches) == len(seconds.in_law) == 3
    assert min(seconds.patches + seconds.in_law) > 0


def test_a_task_of_another_size_is_refused(generator: Generator) -> None:
    task, _ = case(generator)
    with pytest.raises(ValueError, match=r"\(12, 7\).*\(12, 8\)"):
        descend_in_law(SimplifiedViT(12, 8), task, 4, 1, 0.1)
    with pytest.raises(ValueError, match="batch_size"):
        descend_in_law(SimplifiedViT(12, 7), task, 0, 1, 0.1)


def test_a_model_of_another_dtype_is_refused() -> None:
    task = StructuredTask(Partition([0, 0, 1, 1]), dim=4, noise_rate=0.3, feature=torch.ones(4).double())
    with pytest.raises(TypeError, match=r"the task is of torch\.float64, the model of torch\.float32"):
        descend_in_law(SimplifiedViT(4, 4), task, 4, 1, 0.1)


def test_draw_is_what_a_step_needs(generator: Generator) -> None:
    task, _ = case(generator)
    batch = draw(task, 3, generator=generator)
    assert [tuple(x.shape) for x in batch] == [(3,), (3, 12), (3, 12), (7,)]
    assert isinstance(batch, Draw)


def test_encoded_scores_get_the_gradient_of_free_ones_by_the_chain_rule(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(8, 2), dim=5, noise_rate=0.3, generator=generator)
    model = SimplifiedViT(8, 5, init_std=0.3, generator=generator)
    encode_positions(model, 4, init_std=0.5, generator=generator)
    free = SimplifiedViT(8, 5, init_std=0.0)
    free.scores.data, free.value.data = model.scores.detach().clone(), model.value.detach().clone()
    batch = draw(task, 16, generator=generator)
    _, by_scores, by_value = gradient_in_law(free, task, batch)
    backward_in_law(model, task, batch)
    encodings = model.get_parameter("parametrizations.scores.original")
    assert by_scores.abs().sum() > 0
    torch.testing.assert_close(encodings.grad, (by_scores + by_scores.T) @ encodings.detach())
    torch.testing.assert_close(model.value.grad, by_value)
