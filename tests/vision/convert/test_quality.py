"""What is left of a model's outputs, against definitions written out."""

import pytest
import torch
import torch.nn.functional as F

from posattn.vision.convert.quality import Outputs, Quality, estimate, neighbours, tally


def random_outputs(n: int = 30, seed: int = 0, logits: bool = True) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(n, 6, generator=generator), torch.randn(n, 4, generator=generator) if logits else None
    )


def nearest(features: torch.Tensor, i: int, k: int) -> list[int]:
    others = [j for j in range(len(features)) if j != i]
    return sorted(others, key=lambda j: -F.cosine_similarity(features[i], features[j], dim=0).item())[:k]


def test_every_measure_against_its_definition() -> None:
    a, b = random_outputs(), random_outputs(seed=1)
    labels = torch.arange(30) % 3
    found = Quality(a, labels, nearest=4, classes=4).of(b)
    for i in range(30):
        expected = F.cosine_similarity(a.features[i], b.features[i], dim=0).item()
        assert found["cosine"][i].item() == pytest.approx(expected, abs=1e-6)
        common = set(nearest(a.features, i, 4)) & set(nearest(b.features, i, 4))
        assert found["neighbours"][i].item() == len(common) / 4
        p, q = (one.logits[i].softmax(0).double() for one in (a, b))
        assert found["divergence"][i].item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-5)
        assert found["accuracy"][i].item() == float(b.logits[i].argmax() == labels[i])


def test_accuracy_of_the_neighbours_without_a_classifier() -> None:
    a, b = random_outputs(logits=False), random_outputs(seed=1, logits=False)
    labels = torch.arange(30) % 3
    found = Quality(a, labels, nearest=4).of(b)["accuracy"]
    for i in range(30):
        votes = [0.0] * 3
        for j in nearest(b.features, i, 4):
            votes[labels[j]] += F.cosine_similarity(b.features[i], b.features[j], dim=0).item()
        assert found[i].item() == float(votes.index(max(votes)) == labels[i])


@pytest.mark.parametrize("classes", [3, 6])
def test_labels_of_other_classes_are_for_the_neighbours(classes: int) -> None:
    labels, found = torch.arange(30) % classes, random_outputs()  # whose classifier has four classes
    features = found.features + 3 * F.one_hot(labels, 6)
    quality = Quality(Outputs(features, found.logits), labels, nearest=4)
    assert not quality.classifies
    assert torch.equal(
        quality.before["accuracy"], Quality(Outputs(features, None), labels, nearest=4).before["accuracy"]
    )
    assert quality.before["accuracy"].mean() > 0.7


def test_a_classifier_that_is_always_wrong() -> None:
    a = random_outputs()
    with pytest.raises(
        ValueError, match="right on none of the 30 images: its classes are not those of the labels"
    ):
        Quality(a, (a.logits.argmax(1) + 1) % 4, nearest=4, classes=4)


def test_the_original_keeps_all() -> None:
    a = random_outputs()
    quality = Quality(a, a.logits.argmax(1), nearest=4)
    found = quality.of(a)
    assert {metric: quality.kept(found, metric) for metric in found} == pytest.approx(
        {"cosine": 1.0, "neighbours": 1.0, "accuracy": 1.0, "divergence": 0.0}, abs=1e-6
    )


def test_accuracy_is_kept_as_a_share() -> None:
    a = random_outputs()
    labels = a.logits.argmax(1).clone()
    labels[:10] = (labels[:10] + 1) % 4  # right in two thirds
    quality = Quality(a, labels, nearest=4)
    b = Outputs(a.features, a.logits.clone())
    b.logits[10:20] = -b.logits[10:20]  # and half of these become wrong
    assert quality.kept(quality.of(b), "accuracy") == pytest.approx(0.5)


def test_an_image_with_logits_that_are_not_numbers_is_wrong() -> None:
    a = random_outputs()
    quality = Quality(a, a.logits.argmax(1), nearest=4)
    b = Outputs(a.features, a.logits.clone())
    b.logits[:15, 2] = torch.nan  # argmax takes it for the largest
    assert quality.kept(quality.of(b), "accuracy") == pytest.approx(0.5)


def test_neighbours_leave_the_image_aside() -> None:
    found = neighbours(torch.eye(5) + 0.1, 4)
    assert all(i not in row for i, row in enumerate(found.tolist()))


def test_what_cannot_be_compared() -> None:
    a = random_outputs(11)
    with pytest.raises(ValueError, match="10 nearest neighbours and errors need at least 12 images, got 11"):
        Quality(a)
    constant = Outputs(torch.ones(30, 6) + 1e-9, None)
    with pytest.raises(ValueError, match="features are constant over the 30 images"):
        Quality(constant)
    features = random_outputs().features
    features[3, 2] = torch.nan
    with pytest.raises(ValueError, match="features of 1 of 30 images are not finite"):
        Quality(Outputs(features, None))
    with pytest.raises(ValueError, match="labels must be as many as the 30 images, got 3"):
        Quality(random_outputs(), torch.arange(3))
    with pytest.raises(ValueError, match="at least two images, got 1"):
        estimate(torch.ones(1))


def test_a_label_without_a_vote_does_not_win_over_negative_ones() -> None:
    found = tally(-torch.ones(2, 2).double() / 3, torch.tensor([[3, 2], [1, 1]]))
    assert found[0].item() in (2, 3)
    assert found[1].item() == 1
