"""The structured task against its definition: the distribution, the labels, the partition."""

import math

import pytest
import torch
from torch import Generator
from torch._subclasses.fake_tensor import FakeTensorMode

from posattn.structure.partition import Partition
from posattn.theory.classes import MultiClassTask
from posattn.theory.masked import masked
from posattn.theory.task import StructuredTask, set_sums


def task_of(
    generator: Generator, q: float = 0.25, sets: int = 8, size: int = 4, dim: int = 16
) -> StructuredTask:
    partition = Partition.random(sets * size, size, generator=generator)
    feature = torch.randn(dim, generator=generator, dtype=torch.double)
    return StructuredTask(partition, dim=dim, noise_rate=q, feature=feature)


def test_samples_have_their_exact_structure(generator: Generator) -> None:
    task = task_of(generator)
    patches, labels, informative, signal = task.sample(200, generator=generator)
    assert patches.dtype == torch.double
    torch.testing.assert_close(patches @ task.feature, signal, rtol=0, atol=1e-12)
    assert set(signal.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert set(labels.tolist()) == {-1.0, 1.0}
    inside = task.partition.labels == informative[:, None]
    assert (signal[inside].reshape(200, 4) == labels[:, None]).all()
    assert task.feature.norm().item() == pytest.approx(1, abs=1e-12)


def test_samples_have_the_moments_of_the_distribution(generator: Generator) -> None:
    """Each |z| below 5: in all some fifty figures, so that 1e-4 of such tests fail at the true law."""
    n, q = 4000, 0.3
    task = task_of(generator, q)
    patches, labels, informative, signal = task.sample(n, generator=generator)
    assert abs(labels.mean()) < 5 / math.sqrt(n)
    share = torch.bincount(informative, minlength=8) / n
    assert (share - 1 / 8).abs().max() < 5 * math.sqrt(7 / 64 / n)
    outside = signal[task.partition.labels != informative[:, None]]
    for value, chance in ((1, q / 2), (-1, q / 2), (0, 1 - q)):
        error = math.sqrt(chance * (1 - chance) / outside.numel())
        assert abs((outside == value).double().mean() - chance) < 5 * error
    noise = (patches - signal[..., None] * task.feature).flatten(0, 1)
    expected = (torch.eye(16).double() - torch.outer(task.feature, task.feature)) / 16  # σ = 1/√d
    covariance = noise.T @ noise / len(noise)
    variances = expected.diagonal()
    errors = ((variances[:, None] * variances[None, :] + expected**2) / len(noise)).sqrt()
    assert ((covariance - expected).abs() < 6 * errors + 1e-12).all()
    between = (noise.reshape(n, -1, 16)[:, 0] * noise.reshape(n, -1, 16)[:, 1]).sum(-1)
    assert abs(between.mean()) < 5 * between.std() / math.sqrt(n)  # patches are independent


def test_a_feature_in_half_precision_does_not_round_the_noise_rate() -> None:
    feature = torch.tensor([1.0, 2.0, 2.0], dtype=torch.bfloat16)
    task = StructuredTask(Partition.contiguous(900, 9), dim=3, noise_rate=0.02, feature=feature)
    labels, informative, signal = task.sample_signal(400, generator=Generator().manual_seed(0))
    noise = signal[~task.partition.membership[informative]]
    for sign in (1, -1):
        share = (noise == sign).double().mean().item()
        assert share == pytest.approx(0.01, abs=4 * math.sqrt(0.01 / len(noise)))
    assert labels.dtype == signal.dtype == torch.bfloat16


def test_the_labelling_function_labels_every_sample(generator: Generator) -> None:
    """No other set comes near 0.9 C, although the sum over all patches does not decide the label."""
    task = task_of(generator, q=0.5, sets=64, size=16, dim=8)
    patches, labels, _, signal = task.sample(300, generator=generator)
    assert (task.label(patches) == labels).all()
    assert (signal.sum(-1).sign() == labels).double().mean() < 0.9


def test_the_threshold_counts_from_nine_tenths_of_a_set() -> None:
    feature = torch.eye(3)[0]
    task = StructuredTask(Partition.contiguous(20, 10), dim=3, noise_rate=0.0, feature=feature)
    signal = torch.zeros(4, 20)
    signal[0, :9], signal[1, :8], signal[2, 10:], signal[3, :] = 1, 1, -1, 1
    signal[3, 10:] = -1
    assert task.label(signal[..., None] * feature).tolist() == [1, 0, -1, 0]


@pytest.mark.parametrize(
    ("dtype", "noise_std"), [(torch.half, None), (torch.bfloat16, None), (torch.float32, 100.0)]
)
def test_labels_are_exact_where_patches_are_rounded(
    dtype: torch.dtype, noise_std: float | None, generator: Generator
) -> None:
    """Many sets reach the threshold and cancel; the sums of the drawn signal are integers."""
    feature = torch.randn(64, generator=generator).to(dtype)
    partition = Partition.random(20, 4, generator=generator)
    task = StructuredTask(partition, dim=64, noise_rate=0.9, noise_std=noise_std, feature=feature)
    batch = task.sample(2000, generator=generator)
    sums = set_sums(batch.signal.double(), partition)
    expected = torch.where(sums.abs() >= 3.6, sums, 0.0).sum(-1).sign()
    assert (expected == 0).any()
    labels = task.label(batch.patches)
    assert labels.dtype == dtype
    assert torch.equal(labels.double(), expected)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("set_size", [1, 2])
def test_labels_are_0_where_small_sets_of_rounded_patches_cancel(
    dtype: torch.dtype, set_size: int, generator: Generator
) -> None:
    """The rounding of several sets that reach the threshold adds up."""
    feature = torch.randn(3, generator=generator).to(dtype)
    partition = Partition.contiguous(8 * set_size, set_size)
    task = StructuredTask(partition, dim=3, noise_rate=0.6, noise_std=2.0, feature=feature)
    batch = task.sample(4000, generator=generator)
    sums = set_sums(batch.signal.double(), partition)
    expected = torch.where(sums.abs() >= 0.9 * set_size, sums, 0.0).sum(-1).sign()
    assert torch.equal(task.label(batch.patches).double(), expected)


def test_patches_in_double_precision_are_rounded_as_the_feature_is(generator: Generator) -> None:
    task = StructuredTask(
        Partition.random(20, 4, generator=generator),
        dim=64,
        noise_rate=0.9,
        noise_std=300.0,
        generator=generator,
    )
    patches = task.sample(2000, generator=generator).patches
    assert torch.equal(task.label(patches.double()), task.label(patches))
    assert (task.label(patches) == 0).any()


class SharedNoise(StructuredTask):
    """All patches of a sample, and all batches, have one noise."""

    noise = torch.randn(64, 1, 8, generator=Generator().manual_seed(1))

    def draw_noise(self, n: int, *, generator: Generator | None = None) -> torch.Tensor:
        return self.noise[:n].expand(n, self.partition.num_patches, self.dim)


def test_the_noise_of_a_subclass_stays_as_it_is(generator: Generator) -> None:
    task = SharedNoise(Partition.contiguous(12, 3), dim=8, noise_rate=0.2, generator=generator)
    before = task.noise.clone()
    batch = task.sample(20, generator=generator)
    assert torch.equal(task.noise, before)
    assert torch.equal(task.label(batch.patches), batch.labels)


@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_a_feature_of_any_size_has_unit_norm(scale: float) -> None:
    task = StructuredTask(Partition.contiguous(4, 2), dim=4, noise_rate=0.1, feature=scale * torch.ones(4))
    torch.testing.assert_close(task.feature, torch.full((4,), 0.5))


def test_set_sums_follow_the_partition(generator: Generator) -> None:
    partition = Partition.random(12, 3, generator=generator)
    values = torch.randn(5, 12, generator=generator)
    one_hot = torch.nn.functional.one_hot(partition.labels).float()
    torch.testing.assert_close(set_sums(values, partition), values @ one_hot)


def test_the_twin_shares_all_but_the_feature(generator: Generator) -> None:
    task = task_of(generator)
    twin = task.downstream(generator=generator)
    assert twin.partition is task.partition
    assert (twin.dim, twin.noise_rate, twin.noise_std) == (task.dim, task.noise_rate, task.noise_std)
    assert abs(twin.feature @ task.feature) < 0.9
    assert twin.feature.dtype == task.feature.dtype


def test_draws_are_fixed_by_the_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = Generator().manual_seed(seed)
        task = StructuredTask(Partition.contiguous(8, 2), dim=4, noise_rate=0.5, generator=generator)
        return task.sample(3, generator=generator).patches

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dim": 1}, ValueError, "dim must be at least 2, got 1"),
        ({"noise_rate": 1.5}, ValueError, r"noise_rate .* 1\.5"),
        ({"noise_std": -1.0}, ValueError, "noise_std"),
        ({"feature": torch.zeros(4)}, ValueError, "norm 0"),
        ({"feature": torch.ones(5)}, ValueError, r"\(4,\) floats"),
    ],
)
def test_bad_tasks(changes: dict[str, object], error: type[Exception], message: str) -> None:
    options = {"dim": 4, "noise_rate": 0.5} | changes
    with pytest.raises(error, match=message):
        StructuredTask(Partition.contiguous(4, 2), **options)  # type: ignore[arg-type]


def test_bad_samples(generator: Generator) -> None:
    task = task_of(generator)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        task.sample(0)
    with pytest.raises(ValueError, match=r"\(n, 32, 16\), got \(2, 31, 16\)"):
        task.label(torch.zeros(2, 31, 16).double())


def test_labels_of_patches_that_are_not_finite_are_refused(generator: Generator) -> None:
    task = StructuredTask(Partition.contiguous(16, 4), dim=8, noise_rate=0.2, generator=generator)
    batch = task.sample(5, generator=generator)
    assert torch.equal(task.label(batch.patches.double()), batch.labels)
    batch.patches[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="patches must be finite"):
        task.label(batch.patches)


def test_a_task_on_a_feature_that_is_trained_has_samples_without_a_graph(generator: Generator) -> None:
    """Its second step failed: all of them shared the graph that normalises the feature."""
    feature = torch.randn(4, generator=generator).requires_grad_()
    partition = Partition.contiguous(6, 2)
    one = StructuredTask(partition, dim=4, noise_rate=0.3, feature=feature)
    several = MultiClassTask(partition, torch.stack([feature, -feature]), noise_rate=0.3)
    assert not any(task.sample(3, generator=generator).patches.requires_grad for task in (one, several))


def test_samples_are_drawn_on_the_device_of_the_feature(generator: Generator) -> None:
    """Fake tensors stand in for those of a GPU."""
    partition = Partition.contiguous(8, 2)
    several = MultiClassTask(partition, torch.eye(3, 4), noise_rate=0.3)
    for task in (StructuredTask(partition, dim=4, noise_rate=0.3), several):
        with FakeTensorMode(allow_non_fake_inputs=True):
            task.feature = torch.empty(task.feature.shape, device="cuda")
            batch = task.sample(3)
            assert {batch.patches.device.type, batch.labels.device.type, batch.signal.device.type} == {"cuda"}
            assert masked(task, 3, 0.3).labels.device.type == "cuda"
            assert task.downstream(generator=generator).feature.device.type == "cuda"
