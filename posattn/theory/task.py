"""The spatially structured distribution: a task on a partition of the patches.

Source: arXiv 2210.09221, the data distribution and the labelling function f*.
"""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from posattn import checks
from posattn.shapes import Feature, Labels, Patches, Signal
from posattn.structure.partition import Cover

LABEL_THRESHOLD = 0.9  # f* counts a set whose sum reaches this share of C in absolute value
ROUNDING = 1e-5  # least tolerance of the sum over a set, of the set's size
MOST_ROUNDING = 0.09  # largest tolerance: sums of signs are 0.1 from a threshold or reach it
MOST_OF_TOTAL = 0.45  # largest tolerance of the sum over sets: a sum of signs is 0 or at least 1


class SignalBatch(NamedTuple):
    """The latent variables of samples, without their patches."""

    labels: Labels
    informative: Int[Tensor, " n"]  # the set that carries the label
    signal: Signal


class Batch(NamedTuple):
    """Samples of a structured task, with their latent variables."""

    patches: Patches
    labels: Labels
    informative: Int[Tensor, " n"]
    signal: Signal


class StructuredTask:
    """The paper's distribution: one set carries the label, every other patch carries sign noise.

    y = ±1 fairly, a set ℓ uniformly; X_j = y w* + ξ_j in S_ℓ, elsewhere X_j = δ_j w* + ξ_j with δ_j = ±1 with
    probability q/2 each, else 0; ξ_j ~ N(0, σ² (I - w* w*ᵀ)).

    A subclass changes an assumption by overriding one step of the sampling: ``draw_labels``, ``draw_sets``,
    ``draw_signal``, ``observe`` or ``draw_noise``.

    Args:
        partition: which patches belong together; the sets may overlap, differ in size and leave patches out.
        dim: d, the dimension of a patch, at least 2.
        noise_rate: q, the probability that an uninformative patch carries ±w*.
        noise_std: σ; default: 1/√d.
        feature: (d,) the feature w*, normalised here; default: uniform on the sphere.
        generator: draws the feature.

    Samples have the feature's dtype and device (the default dtype if it is drawn).

    Raises:
        TypeError, ValueError: an argument is out of range, or the feature is not a non-zero (d,) vector.
    """

    def __init__(
        self,
        partition: Cover,
        *,
        dim: int,
        noise_rate: float,
        noise_std: float | None = None,
        feature: Feature | None = None,
        generator: Generator | None = None,
    ) -> None:
        if checks.positive_int("dim", dim) < 2:
            raise ValueError(f"dim must be at least 2, got {dim}")
        checks.of_type("partition", partition, Cover)
        self.partition, self.dim = partition, dim
        self.noise_rate = checks.probability("noise_rate", noise_rate)
        noise_std = 1 / math.sqrt(dim) if noise_std is None else noise_std
        self.noise_std = checks.finite("noise_std", noise_std, 0.0)
        feature = (
            torch.randn(dim, generator=generator) if feature is None else torch.as_tensor(feature).detach()
        )
        if feature.shape != (dim,) or not feature.is_floating_point():
            raise ValueError(f"feature must be ({dim},) floats, got {tuple(feature.shape)} {feature.dtype}")
        if not (feature.isfinite().all() and feature.any()):
            raise ValueError(f"feature must be finite and non-zero, got norm {float(feature.norm())}")
        self.feature = normalized(feature)

    def draw_labels(self, n: int, *, generator: Generator | None = None) -> Labels:
        """(n,) the labels y of the samples, ±1 with equal probability."""
        signs = torch.randint(2, (n,), generator=generator, device=self.feature.device)
        return signs.to(self.feature.dtype) * 2 - 1

    def draw_sets(self, n: int, *, generator: Generator | None = None) -> Int[Tensor, " n"]:
        """(n,) the informative set ℓ of each sample, drawn uniformly."""
        return torch.randint(self.partition.num_sets, (n,), generator=generator, device=self.feature.device)

    def draw_signal(
        self, labels: Labels, informative: Int[Tensor, " n"], *, generator: Generator | None = None
    ) -> Signal:
        """(n, D) u_j = <w*, X_j>: y in the informative set, elsewhere ±1 with probability q/2 each, else 0."""
        shape, q = (len(labels), self.partition.num_patches), self.noise_rate
        dtype = torch.promote_types(labels.dtype, torch.float32)  # half precision is too coarse for q
        chance = torch.rand(shape, generator=generator, dtype=dtype, device=labels.device)
        noise = (chance < q / 2).to(labels) - (chance >= 1 - q / 2).to(labels)
        inside = self.partition.membership.to(labels.device)[informative]
        return torch.where(inside, labels[:, None], noise)

    def observe(self, labels: Tensor, *, generator: Generator | None = None) -> Tensor:
        """(n,) the labels that a learner sees, given those of the samples: by default the same."""
        return labels

    def draw_noise(self, n: int, *, generator: Generator | None = None) -> Patches:
        """(n, D, d) independent N(0, σ²) noise; its component along w* is removed afterwards."""
        shape = (n, self.partition.num_patches, self.dim)
        feature = self.feature
        noise = torch.randn(shape, generator=generator, dtype=feature.dtype, device=feature.device)
        return noise.mul_(self.noise_std)

    def sample_signal(self, n: int, *, generator: Generator | None = None) -> SignalBatch:
        """``n`` fresh samples without their patches: y, ℓ and u_j = <w*, X_j> alone."""
        checks.positive_int("n", n)
        labels = self.draw_labels(n, generator=generator)
        informative = self.draw_sets(n, generator=generator)
        signal = self.draw_signal(labels, informative, generator=generator)
        return SignalBatch(self.observe(labels, generator=generator), informative, signal)

    def sample(self, n: int, *, generator: Generator | None = None) -> Batch:
        """``n`` fresh samples. Raises ValueError if ``n`` is below 1."""
        labels, informative, signal = self.sample_signal(n, generator=generator)
        noise = self.draw_noise(n, generator=generator)
        along = noise @ self.feature  # ξ_j is orthogonal to w*, so that <w*, X_j> is the signal exactly
        patches = torch.addcmul(noise, (signal - along)[..., None], self.feature)
        return Batch(patches, labels, informative, signal)

    def label(self, patches: Patches) -> Labels:
        """The sign of f*(X) = Σ_ℓ T(Σ_{j in S_ℓ} <w*, X_j>), where T(z) = z if ``|z| >= 0.9 C``, else 0.

        C is the size of S_ℓ. The label is 0 if no set reaches its threshold, or if those that do cancel.
        Raises TypeError if the patches are not floats, ValueError if they are not (n, D, d) or not finite.
        """
        signal, rounding = self._projected(patches)
        sums = counted(set_sums(signal, self.partition), self.partition, rounding)
        total, tolerance = sums.sum(-1), rounding_of_total(rounding, sums != 0)
        return torch.where(total.abs() > tolerance, total, 0.0).sign().to(self.feature.dtype)

    def downstream(self, *, generator: Generator | None = None) -> "StructuredTask":
        """The transfer twin: a copy of this task with a new feature, uniform on the sphere."""
        twin = copy.copy(self)
        feature = normal(self.dim, generator=generator, dtype=self.feature.dtype).to(self.feature.device)
        twin.feature = normalized(feature)
        return twin

    @property
    def _precise(self) -> torch.dtype:
        """The feature's dtype, at least single precision."""
        return torch.promote_types(self.feature.dtype, torch.float32)

    def _projected(self, patches: Patches) -> tuple[Float[Tensor, "n D *K"], Float[Tensor, "n L"]]:
        """<w*, X_j> in single precision or better, and the tolerance of its sum over every set."""
        eps = max(torch.finfo(dtype).eps for dtype in (self._checked(patches).dtype, self._precise))
        feature = self.feature.to(self._precise)
        patches = patches.to(feature.dtype)
        if not patches.isfinite().all():
            raise ValueError("patches must be finite, got NaN or infinity")
        least = ROUNDING * self.partition.sizes.to(patches)
        error = eps * set_sums(patches.norm(dim=-1), self.partition)
        return patches @ feature, torch.maximum(error.clamp(max=MOST_ROUNDING), least)

    def _checked(self, patches: Patches) -> Patches:
        checks.of_type("patches", patches, Tensor)
        if not patches.is_floating_point():
            raise TypeError(f"patches must be floats, got {patches.dtype}")
        expected = (self.partition.num_patches, self.dim)
        if patches.ndim != 3 or tuple(patches.shape[1:]) != expected:
            raise ValueError(f"patches must be (n, {expected[0]}, {expected[1]}), got {tuple(patches.shape)}")
        return patches

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.partition}, dim={self.dim}, noise_rate={self.noise_rate:g})"


def normal(*shape: int, generator: Generator | None, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers on the device of the generator, the CPU without one."""
    device = None if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


def set_sums(values: Float[Tensor, "*n D"], partition: Cover) -> Float[Tensor, "*n L"]:
    """U_ℓ = Σ_{j in S_ℓ} u_j of every set."""
    return values @ partition.membership.T.to(values)


def counted(
    sums: Float[Tensor, "*n L"], partition: Cover, rounding: Float[Tensor, "*#n L"]
) -> Float[Tensor, "*n L"]:
    """T of the sum of every set: 0 where it is below 0.9 of the size of the set by more than ``rounding``."""
    threshold = LABEL_THRESHOLD * partition.sizes.to(sums)
    return torch.where(sums.abs() >= threshold - rounding, sums, 0.0)


def rounding_of_total(rounding: Float[Tensor, "n L"], reached: Bool[Tensor, "n L"]) -> Float[Tensor, " n"]:
    """The tolerance of Σ_ℓ T over the sets that reach their threshold: their own added up, below the step of signs."""
    added = torch.where(reached, rounding, 0.0).sum(-1).clamp(max=MOST_OF_TOTAL)
    return torch.maximum(added, rounding.amax(-1))


def normalized(feature: Float[Tensor, "*K d"]) -> Float[Tensor, "*K d"]:
    """Each feature at unit norm. A power of 2 is taken out first, which is exact, so that no square overflows."""
    _, exponent = torch.frexp(feature.abs().amax(-1, keepdim=True))
    scaled = torch.ldexp(feature, -exponent)
    return scaled / scaled.norm(dim=-1, keepdim=True)
