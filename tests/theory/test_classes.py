"""Several classes and features, against formulas and against the paper's task, which is the case of w* and -w*."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from posattn.structure.partition import Partition
from posattn.theory import solutions
from posattn.theory.accuracy import accuracy
from posattn.theory.classes import MultiClassTask, MultiClassViT
from posattn.theory.descent import descend
from posattn.theory.in_law import check_in_law
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import StructuredTask
from posattn.theory.tracking import describe
from posattn.theory.transfer import frozen_attention, held_attention

PARTITION = Partition([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def slanted(generator: Generator) -> MultiClassTask:
    """Four features that are not orthogonal, the last two of one class."""
    features = torch.eye(4, 6, dtype=torch.double) + 0.1 * torch.randn(4, 6, generator=generator).double()
    return MultiClassTask(PARTITION, features, noise_rate=0.4, noise_std=0.7, classes=[0, 1, 2, 2])


def test_samples_have_their_exact_structure(generator: Generator) -> None:
    task = slanted(generator)
    patches, labels, informative, signal = task.sample(3000, generator=generator)
    assert signal.shape == (3000, 12, 4)
    assert ((signal.sum(-1) == 0) | (signal.sum(-1) == 1)).all()
    rows = task.feature.T  # unit
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4).double())
    torch.testing.assert_close(
        (patches - signal @ rows) @ rows.T, torch.zeros(3000, 12, 4).double(), atol=1e-12, rtol=0
    )
    carried = signal[PARTITION.membership[informative]].reshape(3000, 4, 4)
    assert (carried == carried[:, :1]).all()  # one feature in all of the set
    assert torch.equal(task.classes[carried[:, 0].argmax(-1)], labels)
    for label in range(3):
        assert abs((labels == label).double().mean() - 1 / 3) < 5 * math.sqrt(2 / 9 / 3000)
    outside = signal[~PARTITION.membership[informative]]
    for k in range(4):
        assert abs(outside[:, k].mean() - 0.1) < 5 * math.sqrt(0.09 / len(outside))
    right = carried[labels == 2][:, 0, 2].mean()  # either feature of class 2, fairly
    assert abs(right - 0.5) < 5 * math.sqrt(0.25 / 1000)


def test_the_label_is_the_class_whose_sets_count(generator: Generator) -> None:
    """All of a set is another class by chance 1e-2 per sample at most, and then ties or is outvoted."""
    task = MultiClassTask(PARTITION, torch.eye(3, 8), noise_rate=0.3)
    batch = task.sample(2000, generator=generator)
    assert (task.label(batch.patches) == batch.labels).double().mean() > 0.99
    signal = torch.zeros(3, 12, 3)
    signal[0, PARTITION.labels == 1, 2] = 1  # a whole set
    signal[1, [0, 3, 6], 1] = 1  # three of four do not count
    signal[2, PARTITION.labels <= 1, 0], signal[2, PARTITION.labels == 2, 1] = 1, 1
    assert task.label(signal @ torch.eye(3, 8)).tolist() == [2, -1, 0]


def test_two_opposite_features_are_the_papers_task(generator: Generator) -> None:
    feature = torch.randn(5, generator=generator, dtype=torch.double)
    paper = StructuredTask(PARTITION, dim=5, noise_rate=0.5, noise_std=0.3, feature=feature)
    task = MultiClassTask(PARTITION, torch.stack([feature, -feature]), noise_rate=0.5, noise_std=0.3)
    batch = task.sample(3000, generator=generator)
    signal = batch.patches @ paper.feature
    expected = paper.sample(3000, generator=generator)
    for value in (-1.0, 0.0, 1.0):
        shares = [(s.round() == value).double().mean() for s in (signal, expected.signal)]
        assert abs(shares[0] - shares[1]) < 5 * math.sqrt(0.5 / 3000)
    ours, theirs = task.label(batch.patches), paper.label(batch.patches)
    assert torch.equal(torch.tensor([1, -1, 0])[ours], theirs.long())
    assert (theirs == 0).any()  # whole sets that cancel
    noise = [b.patches - (b.patches @ paper.feature)[..., None] * paper.feature for b in (batch, expected)]
    assert noise[0].var().item() == pytest.approx(noise[1].var().item(), rel=0.03)


def test_the_twin_is_a_rotation(generator: Generator) -> None:
    task = slanted(generator)
    twin = task.downstream(generator=generator)
    torch.testing.assert_close(twin.feature.T @ twin.feature, task.feature.T @ task.feature)
    assert (twin.feature - task.feature).abs().max() > 0.1
    batch = twin.sample(50, generator=generator)
    torch.testing.assert_close(batch.patches @ twin.feature, batch.signal @ twin.feature.T @ twin.feature)


def test_logits_of_classes_share_the_attention(generator: Generator) -> None:
    model = MultiClassViT(12, 6, 3, init_std=0.4, generator=generator).double()
    patches = torch.randn(5, 12, 6, generator=generator).double()
    one = SimplifiedViT(12, 6).double()
    one.scores.data = model.scores.data
    for k in range(3):
        one.value.data = model.value.data[:, k]
        torch.testing.assert_close(model(patches)[:, k], one(patches))


def test_they_are_learned_transferred_and_refused_in_law(generator: Generator) -> None:
    task = MultiClassTask(PARTITION, torch.eye(3, 8), noise_rate=0.2)
    model = MultiClassViT(12, 8, 3, generator=generator)
    run = descend(
        model,
        lambda: task.sample(128, generator=generator),
        80,
        3.0,
        value_rate=0.01,
        normalize=True,
        loss=F.cross_entropy,
    )
    losses = [step.loss for step in run]
    row = describe(model, task, task.sample(500, generator=generator), F.cross_entropy)
    assert row["loss"] < 0.3 < losses[0]
    assert (
        row["accuracy"]
        == accuracy(model, task.sample(500, generator=generator))
        == pytest.approx(1, abs=0.05)
    )
    assert row["association"] > 0.9
    assert row["alignment"] > 0.8
    assert frozen_attention(model).value.shape == (8, 3)
    with pytest.raises(TypeError, match="in law does not hold for MultiClassTask, which overrides sample"):
        check_in_law(SimplifiedViT(12, 8), task)
    with pytest.raises(ValueError, match=r"in law needs one vector v, got value of shape \(8, 3\)"):
        check_in_law(model, StructuredTask(PARTITION, dim=8, noise_rate=0.2))


@pytest.mark.parametrize("cosine", [0.5, 0.91, 0.95])
def test_close_features_of_a_class_count_once(cosine: float, generator: Generator) -> None:
    others = torch.tensor([[cosine, 0.0, 0.0], [cosine, 0.0, 0.0]])
    others[:, 1:] = math.sqrt(1 - cosine**2) * torch.eye(2)
    features = torch.cat([torch.eye(1, 3), others])
    task = MultiClassTask(PARTITION, features, noise_rate=0.0, noise_std=0.0, classes=[0, 1, 1])
    batch = task.sample(100, generator=generator)
    assert torch.equal(task.label(batch.patches), batch.labels)


def test_the_settings_of_the_paper_hold_for_classes(generator: Generator) -> None:
    task = MultiClassTask(PARTITION, torch.eye(3, 8, dtype=torch.half), noise_rate=0.2)
    batch = task.sample(50, generator=generator)
    assert torch.equal(task.label(batch.patches), batch.labels)
    assert task.downstream(generator=generator).feature.dtype == torch.half
    one, many = SimplifiedViT.small(12, 8), MultiClassViT.small(12, 8, 3, generator=generator)
    assert (many.power, many.linear, many.diagonal, many.scale) == (5, 0.03, one.diagonal, 1.0)
    model = MultiClassViT.analysis(MultiClassTask(PARTITION, torch.eye(3, 8), noise_rate=0.2), alpha=0.5)
    torch.testing.assert_close(model.value.detach(), 0.5 * torch.eye(8, 3))
    with pytest.raises(TypeError, match="task must be a MultiClassTask, got StructuredTask"):
        MultiClassViT.analysis(StructuredTask(PARTITION, dim=8, noise_rate=0.2))


def test_bad_classes(generator: Generator) -> None:
    three = MultiClassTask(PARTITION, torch.eye(3, 8), noise_rate=0.2)
    with pytest.raises(
        ValueError, match=r"a logit per label, got logits and labels of shapes \(3, 3\) and \(3,\)"
    ):
        list(descend(MultiClassViT(12, 8, 3), lambda: three.sample(3, generator=generator), 1, 0.1))
    with pytest.raises(ValueError, match=r"hold each of 0\.\.M-1, M at least 2, got \[0, 2\]"):
        MultiClassTask(PARTITION, torch.eye(2), noise_rate=0.1, classes=[0, 2])
    with pytest.raises(ValueError, match=r"classes must be one per feature, 2, got shape \(0,\)"):
        MultiClassTask(PARTITION, torch.eye(2), noise_rate=0.1, classes=[])
    with pytest.raises(TypeError, match="classes must be integers, got torch"):
        MultiClassTask(PARTITION, torch.eye(2), noise_rate=0.1, classes=[False, True])
    with pytest.raises(ValueError, match=r"features must be \(K, d\) floats, got \(0, 4\)"):
        MultiClassTask(PARTITION, torch.empty(0, 4), noise_rate=0.1)
    with pytest.raises(ValueError, match=r"finite and non-zero, got norms \[1\.0, 0\.0\]"):
        MultiClassTask(PARTITION, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), noise_rate=0.1)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        MultiClassViT(4, 3, 0)
    with pytest.raises(ValueError, match=r"features must be \(K, d\) floats, got \(2,\)"):
        MultiClassTask(PARTITION, torch.ones(2), noise_rate=0.1)
    with pytest.raises(ValueError, match="patches must be finite"):
        three.label(torch.full((1, 12, 8), torch.nan))


def test_what_needs_one_feature_refuses_classes(generator: Generator) -> None:
    task = MultiClassTask(PARTITION, torch.eye(3, 8), noise_rate=0.2)
    for refused in (
        lambda: solutions.associated(PARTITION, task),
        lambda: held_attention(task, "start", generator=generator),
        lambda: SimplifiedViT.analysis(task),
    ):
        with pytest.raises(ValueError, match="needs a task of one feature, got 3"):
            refused()


def test_alignment_is_that_of_each_value_with_the_features_of_its_class(generator: Generator) -> None:
    for classes in ([2, 0, 1], [1, 0, 1, 1]):
        features = torch.eye(len(classes), 6)
        task = MultiClassTask(PARTITION, features, noise_rate=0.2, classes=classes)
        model = MultiClassViT(12, 6, task.num_classes, generator=generator)
        for c in range(task.num_classes):
            own = [feature for feature, of in zip(features, classes, strict=True) if of == c]
            model.value.data[:, c] = 3 * torch.stack(own).sum(0)
        row = describe(model, task, task.sample(10, generator=generator), F.cross_entropy)
        assert row["alignment"] == pytest.approx(1.0)
