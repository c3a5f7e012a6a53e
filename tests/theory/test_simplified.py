"""The simplified ViT against its definition, its symmetry, its parametrisation by encodings."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.nn.utils import parametrize

from posattn.structure.partition import Partition
from posattn.theory.descent import descend
from posattn.theory.simplified import SimplifiedViT, encode_positions, logistic_loss, small_noise_rate
from posattn.theory.task import StructuredTask


def model_of(generator: Generator, D: int = 6, d: int = 4, **options: float) -> SimplifiedViT:
    return SimplifiedViT(D, d, init_std=0.5, generator=generator, **options).double()  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([3, 5, 7]), st.floats(0, 1), st.floats(-2, 2), st.floats(0.1, 4), st.integers(0, 99))
def test_logits_are_the_formula(power: int, linear: float, diagonal: float, scale: float, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    model = model_of(generator, power=power, linear=linear, diagonal=diagonal, scale=scale)
    patches = torch.randn(3, 6, 4, generator=generator).double()
    scores = model.scores.detach().clone()
    for i in range(6):
        scores[i, i] = diagonal
    for sample, logit in zip(patches, model(patches).tolist(), strict=True):
        expected = 0.0
        for i in range(6):
            weights = [math.exp(x) for x in scores[i].tolist()]
            reads = [float(model.value.detach() @ sample[j]) for j in range(6)]
            z = scale * sum(w * r for w, r in zip(weights, reads, strict=True)) / sum(weights)
            expected += z**power + linear * z
        assert logit == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_rows_are_distributions_and_the_diagonal_is_fixed(generator: Generator) -> None:
    model = model_of(generator)
    attention = model.attention().detach()
    torch.testing.assert_close(attention.sum(-1), torch.ones(6).double())
    assert (attention > 0).all()
    model.scores.data.fill_diagonal_(50.0)  # whatever is stored there
    torch.testing.assert_close(model.attention().detach(), attention)
    model(torch.randn(2, 6, 4).double()).sum().backward()
    assert model.scores.grad is not None
    assert (model.scores.grad.diagonal() == 0).all()
    assert (model.scores.grad != 0).sum() == 30


def test_renaming_the_patches_changes_nothing(generator: Generator) -> None:
    model, order = model_of(generator), torch.randperm(6, generator=generator)
    patches = torch.randn(5, 6, 4, generator=generator).double()
    renamed = copy.deepcopy(model)
    renamed.scores.data = model.scores.data[order][:, order]
    torch.testing.assert_close(renamed(patches[:, order]), model(patches))
    assert not torch.allclose(model(patches[:, order]), model(patches))


def test_the_logit_is_odd(generator: Generator) -> None:
    model, patches = model_of(generator), torch.randn(5, 6, 4, generator=generator).double()
    torch.testing.assert_close(model(-patches), -model(patches))


def test_the_loss_at_large_logits_neither_overflows_nor_vanishes() -> None:
    logits, labels = torch.tensor([1000.0, -1000.0]), torch.tensor([-1.0, -1.0])
    assert logistic_loss(logits, labels).item() == pytest.approx(500)
    assert logistic_loss(torch.zeros(1), torch.ones(1)).item() == pytest.approx(math.log(2))


def test_presets(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(8, 2), dim=5, noise_rate=0.5, generator=generator)
    analysis = SimplifiedViT.analysis(task, alpha=0.25)
    assert (analysis.power, analysis.linear, analysis.diagonal, analysis.scale) == (3, 0.01, 2.0, 8.0)
    torch.testing.assert_close(analysis.value.detach(), 0.25 * task.feature)
    assert torch.equal(analysis.scores.detach(), 2.0 * torch.eye(8))
    small = SimplifiedViT.small(64, 32, generator=generator)
    assert (small.power, small.linear, small.scale) == (5, 0.03, 1.0)
    assert small.diagonal == pytest.approx(math.log(math.log(32)))
    off = small.scores.detach()[~torch.eye(64, dtype=torch.bool)]
    assert off.std().item() == pytest.approx(1e-3, rel=0.1)
    assert small_noise_rate(64, 32) == pytest.approx(math.log(32) / 64)
    with pytest.raises(ValueError, match="num_patches must be at least 1, got 0"):
        small_noise_rate(0, 32)


@pytest.mark.parametrize("rank", [1, 4, 32])
def test_encoded_scores_are_a_gram_matrix_of_the_asked_size(generator: Generator, rank: int) -> None:
    model = encode_positions(SimplifiedViT(64, 3), rank, init_std=0.01, generator=generator)
    scores = model.scores.detach()
    assert scores.shape == (64, 64)
    assert torch.linalg.matrix_rank(scores.double(), rtol=1e-5) == rank
    torch.testing.assert_close(scores, scores.T)
    off = scores[~torch.eye(64, dtype=torch.bool)]
    assert off.std().item() == pytest.approx(0.01, rel=0.6 / math.sqrt(rank))
    assert {name for name, _ in model.named_parameters()} == {"value", "parametrizations.scores.original"}


def test_encodings_receive_the_chain_rule_and_survive_saving(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(6, 2), dim=4, noise_rate=0.5, generator=generator)
    model = encode_positions(SimplifiedViT.analysis(task), 3, init_std=0.1, generator=generator)
    batch = task.sample(8, generator=generator)
    free = SimplifiedViT.analysis(task)
    free.scores.data = model.scores.detach().clone()
    for trained in (model, free):
        logistic_loss(trained(batch.patches), batch.labels).backward()
    encodings = model.get_parameter("parametrizations.scores.original")
    by_scores = free.scores.grad
    assert by_scores is not None
    torch.testing.assert_close(encodings.grad, (by_scores + by_scores.T) @ encodings.detach())
    losses = [step.loss for step in descend(model, lambda: batch, 20, 0.01)]
    assert losses[-1] < losses[0]
    twin = encode_positions(SimplifiedViT.analysis(task), 3)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(batch.patches), model(batch.patches))


def test_bad_models(generator: Generator) -> None:
    for bad, message in (
        ({"power": 4}, "power"),
        ({"linear": -0.1}, "linear"),
        ({"diagonal": math.inf}, "diagonal"),
        ({"scale": 0.0}, "scale must be above 0, got 0"),
        ({"scale": -1.0}, "scale must be above 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            SimplifiedViT(4, 3, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(n, 6, 4\), got \(2, 6, 3\)"):
        model_of(generator)(torch.zeros(2, 6, 3).double())
    with pytest.raises(ValueError, match="at least 3"):
        SimplifiedViT.small(4, 2)
    encoded = encode_positions(SimplifiedViT(4, 3), 2)
    with pytest.raises(ValueError, match="parametrised"):
        encode_positions(encoded, 2)
    squashed = SimplifiedViT(4, 3)
    parametrize.register_parametrization(squashed, "scores", torch.nn.Tanh())
    with pytest.raises(TypeError, match="free scores and P Pᵀ, not for Tanh"):
        squashed.reset_parameters()
    with pytest.raises(ValueError, match="init_std must be above 0"):
        encode_positions(SimplifiedViT(4, 3), 2, init_std=0.0)
