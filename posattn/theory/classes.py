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
from posattn.theory.task import Batch, StructuredTask, counted, set_sums


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
        features: Float[Tensor, "K d"],
        *,
        noise_rate: float,
        noise_std: float | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        dim = features.shape[1]
        super().__init__(partition, dim=dim, noise_rate=noise_rate, noise_std=noise_std, feature=features[0])
        if not (features.isfinite().all() and (norms := features.norm(dim=1, keepdim=True)).all()):
            raise ValueError(
                f"features must be finite and non-zero, got norms {norms.flatten().tolist()[:20]}"
            )
        self.feature: Float[Tensor, "d K"] = (features / norms).T
        self.classes = torch.arange(len(features)) if classes is None else torch.as_tensor(classes)
        self.num_classes = int(self.classes.max()) + 1
        found = sorted(set(self.classes.tolist()))
        if found != list(range(max(2, len(found)))) or len(self.classes) != len(features):
            raise ValueError(
                f"classes must hold each of 0..M-1, M at least 2, one per feature, got {self.classes.tolist()[:20]}"
            )

    @property
    def class_features(self) -> Float[Tensor, "d M"]:
        """The sum of the features of each class."""
        return self.feature @ F.one_hot(self.classes, self.num_classes).to(self.feature)

    def draw_labels(self, n: int, *, generator: Generator | None = None) -> Int[Tensor, " n"]:
        """(n,) the class of each sample, drawn uniformly."""
        return torch.randint(self.num_classes, (n,), generator=generator)

    def draw_signal(
        self, labels: Int[Tensor, " n"], informative: Int[Tensor, " n"], *, generator: Generator | None = None
    ) -> Float[Tensor, "n D K"]:
        """1 at the feature that a patch carries."""
        n, D, K = len(labels), self.partition.num_patches, len(self.classes)
        own = (self.classes == labels[:, None]).to(self.feature)
        carried = torch.multinomial(own, 1, generator=generator)
        drawn = torch.randint(K, (n, D), generator=generator)
        drawn = torch.where(torch.rand(n, D, generator=generator) < self.noise_rate, drawn, K)
        inside = self.partition.membership[informative]
        return F.one_hot(torch.where(inside, carried, drawn), K + 1)[..., :K].to(self.feature)

    def sample(self, n: int, *, generator: Generator | None = None) -> Batch:
        """``n`` fresh samples. Raises ValueError if ``n`` is below 1."""
        labels, informative, signal = self.sample_signal(n, generator=generator)
        noise = self.draw_noise(n, generator=generator)
        noise = noise - noise @ self.feature @ torch.linalg.pinv(self.feature)
        return Batch(noise + signal @ self.feature.T, labels, informative, signal)

    def label(self, patches: Patches) -> Int[Tensor, " n"]:
        """The class with the largest Σ_k Σ_ℓ T(Σ_{j in S_ℓ} <w_k, X_j>), k its features; -1 in case of a tie."""
        sums = set_sums((self._checked(patches) @ self.feature).mT, self.partition)
        by_feature = counted(sums, self.partition).sum(-1)
        by_class = by_feature @ F.one_hot(self.classes, self.num_classes).to(by_feature)
        first, second = by_class.topk(2).values.unbind(-1)
        ahead = first - second.clamp(min=0) > self.rounding
        return torch.where(ahead, by_class.argmax(-1), -1)

    def downstream(self, *, generator: Generator | None = None) -> "MultiClassTask":
        """The transfer twin: a copy of this task with its features rotated at random, all together."""
        twin = copy.copy(self)
        rotation, upper = torch.linalg.qr(
            torch.randn(self.dim, self.dim, generator=generator).to(self.feature)
        )
        twin.feature = rotation * upper.diagonal().sign() @ self.feature
        return twin


class MultiClassViT(SimplifiedViT):
    """A simplified ViT with a value v_c for each of K classes, (d, K): (n, K) logits from one attention.

    Arguments and errors are those of SimplifiedViT; train it with the loss ``torch.nn.functional.cross_entropy``.
    """

    def __init__(self, num_patches: int, dim: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_patches, dim, **options)
        shape = dim, checks.positive_int("num_classes", num_classes)
        self.value = nn.Parameter(self.init_std * torch.randn(shape, generator=options.get("generator")))
