"""Several classes and features: the structured distribution and the simplified ViT for more than y = ±1.

Beyond arXiv 2210.09221, whose task is the case of two features w* and -w*, each a class.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from posattn import checks
from posattn.shapes import Patches
from posattn.structure.partition import Cover
from posattn.theory.simplified import SimplifiedViT
from posattn.theory.task import (
    Batch,
    StructuredTask,
    counted,
    normal,
    normalized,
    rounding_of_total,
    set_sums,
)


class MultiClassTask(StructuredTask):
    """A class c uniformly, one of its features w_k uniformly, a set ℓ: X_j = w_k + ξ_j in S_ℓ.

    Elsewhere X_j = w_m + ξ_j with m uniform over all features with probability q, else ξ_j. The noise ξ_j is orthogonal
    to every feature. The signal of a batch is (n, D, K), 1 at the feature that a patch carries; labels are 0..M-1.

    Args:
        partition: which patches belong together.
        features: (K, d) the features, normalised here.
        noise_rate: q.
        noise_std: σ; default: 1/√d.
        classes: (K,) the class 0..M-1 of each feature; default: a class for each.

    Raises:
        TypeError, ValueError: an argument is out of range, or a class has no feature.
    """

    def __init__(
        self,
        partition: Cover,
        features: Tensor,
        *,
        noise_rate: float,
        noise_std: float | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        checks.of_type("features", features, Tensor)
        if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
            raise ValueError(f"features must be (K, d) floats, got {tuple(features.shape)} {features.dtype}")
        dim = features.shape[1]
        super().__init__(partition, dim=dim, noise_rate=noise_rate, noise_std=noise_std, feature=features[0])
        if not (features.isfinite().all() and features.any(1).all()):
            norms = features.norm(dim=1).tolist()[:20]
            raise ValueError(f"features must be finite and non-zero, got norms {norms}")
        self.feature: Float[Tensor, "d K"] = normalized(features.detach()).T
        given = torch.arange(len(features)) if classes is None else torch.as_tensor(classes)
        if given.shape != (len(features),):
            raise ValueError(
                f"classes must be one per feature, {len(features)}, got shape {tuple(given.shape)}"
            )
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise TypeError(f"classes must be integers, got {given.dtype}")
        self.classes = given.long()
        found = self.classes.unique().tolist()
        if found != list(range(max(2, len(found)))):
            raise ValueError(
                f"classes must hold each of 0..M-1, M at least 2, got {self.classes.tolist()[:20]}"
            )
        self.num_classes = len(found)

    @property
    def class_features(self) -> Float[Tensor, "d M"]:
        """The sum of the features of each class."""
        return self.feature @ F.one_hot(self.classes, self.num_classes).to(self.feature)

    def draw_labels(self, n: int, *, generator: Generator | None = None) -> Int[Tensor, " n"]:
        """(n,) the class of each sample, drawn uniformly."""
        return torch.randint(self.num_classes, (n,), generator=generator, device=self.feature.device)

    def draw_signal(
        self, labels: Int[Tensor, " n"], informative: Int[Tensor, " n"], *, generator: Generator | None = None
    ) -> Float[Tensor, "n D K"]:
        """1 at the feature that a patch carries."""
        n, D, K = len(labels), self.partition.num_patches, len(self.classes)
        device = labels.device
        own = (self.classes.to(device) == labels[:, None]).to(self.feature)
        carried = torch.multinomial(own, 1, generator=generator)
        drawn = torch.randint(K, (n, D), generator=generator, device=device)
        noisy = torch.rand(n, D, generator=generator, device=device) < self.noise_rate
        drawn = torch.where(noisy, drawn, K)
        inside = self.partition.membership.to(device)[informative]
        return F.one_hot(torch.where(inside, carried, drawn), K + 1)[..., :K].to(self.feature)

    def sample(self, n: int, *, generator: Generator | None = None) -> Batch:
        """``n`` fresh samples. Raises ValueError if ``n`` is below 1."""
        labels, informative, signal = self.sample_signal(n, generator=generator)
        noise = self.draw_noise(n, generator=generator)
        inverse = torch.linalg.pinv(self.feature.to(self._precise)).to(self.feature)
        noise = noise - noise @ self.feature @ inverse
        return Batch(noise + signal @ self.feature.T, labels, informative, signal)

    def label(self, patches: Patches) -> Int[Tensor, " n"]:
        """The class with the largest Σ_ℓ T(Σ_{j in S_ℓ} <w_k, X_j>), -1 in case of a tie.

        Of a class with several features, w_k is the one for which T is largest in absolute value, set by set: a set
        counts once, also where features of a class are close to each other. Raises the errors of
        ``StructuredTask.label``.
        """
        signal, rounding = self._projected(patches)
        sums = counted(set_sums(signal.mT, self.partition), self.partition, rounding[:, None])
        of_class = [sums[:, self.classes == c] for c in range(self.num_classes)]
        by_class = torch.stack([largest(each.movedim(1, -1)).sum(-1) for each in of_class], dim=-1)
        first, second = by_class.topk(2).values.unbind(-1)
        ahead = first - second.clamp(min=0) > rounding_of_total(rounding, (sums != 0).any(1))
        return torch.where(ahead, by_class.argmax(-1), -1)

    def downstream(self, *, generator: Generator | None = None) -> "MultiClassTask":
        """The transfer twin: a copy of this task with its features rotated at random, all together."""
        twin = copy.copy(self)
        gaussian = normal(self.dim, self.dim, generator=generator).to(self.feature.device, self._precise)
        rotation, upper = torch.linalg.qr(gaussian)
        twin.feature = (rotation * upper.diagonal().sign()).to(self.feature) @ self.feature
        return twin


def largest(values: Float[Tensor, "n L k"]) -> Float[Tensor, "n L"]:
    """The entry of the last dimension with the largest absolute value, the positive one of two."""
    most, least = values.amax(-1), values.amin(-1)
    return torch.where(most >= -least, most, least)


class MultiClassViT(SimplifiedViT):
    """A simplified ViT with a value v_c for each of K classes, (d, K): (n, K) logits from one attention.

    Arguments and errors are those of SimplifiedViT; train it with the loss ``torch.nn.functional.cross_entropy``.
    """

    def __init__(self, num_patches: int, dim: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_patches, dim, **options)
        shape = dim, checks.positive_int("num_classes", num_classes)
        self.value = nn.Parameter(self.init_std * torch.randn(shape, generator=options.get("generator")))

    @classmethod
    def small(
        cls, num_patches: int, dim: int, num_classes: int = 2, *, generator: Generator | None = None
    ) -> "MultiClassViT":
        """``SimplifiedViT.small`` with K values."""
        one = SimplifiedViT.small(num_patches, dim)
        options = {name: getattr(one, name) for name in ("power", "linear", "diagonal", "scale")}
        return cls(num_patches, dim, num_classes, **options, generator=generator)

    @classmethod
    def analysis(cls, task: StructuredTask, *, alpha: float = 0.005) -> "MultiClassViT":
        """``SimplifiedViT.analysis`` for a ``MultiClassTask``: v_c is α₀ times the sum of the features of class c."""
        if not isinstance(task, MultiClassTask):
            raise TypeError(f"task must be a MultiClassTask, got {type(task).__name__}")
        model = cls(task.partition.num_patches, task.dim, task.num_classes, init_std=0.0)
        model.value.data = checks.finite("alpha", alpha) * task.class_features
        model.scores.data = model.scores.data.to(task.feature)
        return model
