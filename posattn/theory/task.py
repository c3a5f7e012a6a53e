"""The spatially structured distribution: a task on a partition of the patches.

Source: arXiv 2210.09221, the data distribution and the labelling function f*.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Feature, Labels, Patches, Signal
from posattn.structure.partition import Partition

LABEL_THRESHOLD = 0.9  # f* counts a set whose sum reaches this share of C in absolute value


class SignalBatch(NamedTuple):
    """What a sample carries along the feature, without its patches."""

    labels: Labels
    informative: Int[Tensor, " n"]  # the set that carries the label
    signal: Signal


class Batch(NamedTuple):
    """Samples of a structured task, with the truth that made them."""

    patches: Patches
    labels: Labels
    informative: Int[Tensor, " n"]
    signal: Signal


class StructuredTask:
    """The paper's distribution: one set carries the label, every other patch carries sign noise.

    y = ±1 fairly, a set ℓ uniformly; X_j = y w* + ξ_j in S_ℓ, elsewhere X_j = δ_j w* + ξ_j with δ_j = ±1 with
    probability q/2 each, else 0; ξ_j ~ N(0, σ² (I - w* w*ᵀ)).

    Args:
        partition: which patches belong together.
        dim: d, the dimension of a patch, at least 2.
        noise_rate: q, the probability that an uninformative patch carries ±w*.
        noise_std: σ; None stands for 1/√d.
        feature: (d,) the feature w*, normalised here; None draws one uniformly on the sphere.
        generator: draws the feature.

    Samples have the feature's dtype and device (the default dtype where it is drawn).

    Raises:
        TypeError, ValueError: an argument is out of range, or the feature is not a non-zero (d,) vector.
    """

    def __init__(
        self,
        partition: Partition,
        *,
        dim: int,
        noise_rate: float,
        noise_std: float | None = None,
        feature: Feature | None = None,
        generator: Generator | None = None,
    ) -> None:
        if checks.positive_int("dim", dim) < 2:
            raise ValueError(f"dim must be at least 2, got {dim}")
        self.partition, self.dim = partition, dim
        self.noise_rate = checks.probability("noise_rate", noise_rate)
        noise_std = 1 / math.sqrt(dim) if noise_std is None else noise_std
        self.noise_std = checks.finite("noise_std", noise_std, 0.0)
        feature = torch.randn(dim, generator=generator) if feature is None else torch.as_tensor(feature)
        if feature.shape != (dim,) or not feature.is_floating_point():
            raise ValueError(f"feature must be ({dim},) floats, got {tuple(feature.shape)} {feature.dtype}")
        if not (feature.isfinite().all() and feature.norm() > 0):
            raise ValueError(f"feature must be finite and non-zero, got norm {float(feature.norm())}")
        self.feature = feature / feature.norm()

    def sample_signal(self, n: int, *, generator: Generator | None = None) -> SignalBatch:
        """``n`` fresh samples without their patches: y, ℓ and u_j = <w*, X_j> alone."""
        checks.positive_int("n", n)
        partition, like = self.partition, {"dtype": self.feature.dtype, "device": self.feature.device}
        labels = torch.randint(2, (n,), generator=generator, device=like["device"]).to(**like) * 2 - 1
        informative = torch.randint(partition.num_sets, (n,), generator=generator, device=like["device"])
        chance = torch.rand(n, partition.num_patches, generator=generator, **like)
        noise = (chance < self.noise_rate / 2).to(**like) - (chance >= 1 - self.noise_rate / 2).to(**like)
        inside = partition.labels.to(like["device"]) == informative[:, None]
        return SignalBatch(labels, informative, torch.where(inside, labels[:, None], noise))

    def sample(self, n: int, *, generator: Generator | None = None) -> Batch:
        """``n`` fresh samples. Raises ValueError where ``n`` is below 1."""
        labels, informative, signal = self.sample_signal(n, generator=generator)
        shape = (n, self.partition.num_patches, self.dim)
        noise = torch.randn(shape, generator=generator, dtype=signal.dtype, device=signal.device)
        noise *= self.noise_std
        along = noise @ self.feature  # ξ_j is orthogonal to w*, so that <w*, X_j> is the signal exactly
        patches = noise.addcmul_((signal - along)[..., None], self.feature)
        return Batch(patches, labels, informative, signal)

    def label(self, patches: Patches) -> Labels:
        """The sign of f*(X) = Σ_ℓ T(Σ_{j in S_ℓ} <w*, X_j>), T(z) = z if |z| >= 0.9 C else 0.

        0 where no set counts. Raises ValueError where the patches are not (n, D, d).
        """
        expected = (self.partition.num_patches, self.dim)
        if patches.ndim != 3 or tuple(patches.shape[1:]) != expected:
            raise ValueError(f"patches must be (n, {expected[0]}, {expected[1]}), got {tuple(patches.shape)}")
        sums = set_sums(patches @ self.feature, self.partition)
        threshold = (LABEL_THRESHOLD - 1e-5) * self.partition.set_size  # C sums of rounded products
        return torch.where(sums.abs() >= threshold, sums, 0.0).sum(-1).sign()

    def downstream(self, *, generator: Generator | None = None) -> "StructuredTask":
        """The transfer twin: the same partition and noise, a new feature."""
        feature = torch.randn(self.dim, generator=generator, dtype=self.feature.dtype).to(self.feature.device)
        return StructuredTask(
            self.partition,
            dim=self.dim,
            noise_rate=self.noise_rate,
            noise_std=self.noise_std,
            feature=feature,
        )

    def __repr__(self) -> str:
        return f"StructuredTask({self.partition}, dim={self.dim}, noise_rate={self.noise_rate:g})"


def set_sums(values: Float[Tensor, "*n D"], partition: Partition) -> Float[Tensor, "*n L"]:
    """U_ℓ = Σ_{j in S_ℓ} u_j of every set."""
    return values[..., partition.sets.to(values.device)].sum(-1)
