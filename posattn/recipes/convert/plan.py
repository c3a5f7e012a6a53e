"""The statistics of the original model on the pictures."""

from typing import Any, NamedTuple

import torch

from posattn.recipes.convert.settings import ConvertConfig
from posattn.recipes.convert.subject import Material, in_batches, normalise_of
from posattn.vision.convert.averages import MapStatistics, map_statistics
from posattn.vision.convert.layers import attention_of
from posattn.vision.convert.needs import Unit, units_of
from posattn.vision.convert.quality import ACCURACY, COSINE, Quality, features_of
from posattn.vision.convert.reruns import Subject, subject_of


class Bench(NamedTuple):
    """Pictures for measuring losses, as model inputs, and the original's outputs on them."""

    batches: list[torch.Tensor]
    quality: Quality


class Plan(NamedTuple):
    """The statistics of the original model on the pictures."""

    subject: Subject
    statistics: dict[int, MapStatistics]
    units: list[Unit]
    metric: str
    ranking: Bench
    measured: Bench


def plan_of(config: ConvertConfig, model: Any, material: Material, device: torch.device) -> Plan:
    """Maps, statistics and the original's outputs."""
    normalise = normalise_of(model)
    calibration = in_batches(material.calibration.to(device), normalise)
    statistics = map_statistics(model, calibration, list(attention_of(model)))
    subject = subject_of(
        model, {n: found.mean for n, found in statistics.items()}, config.window, config.kinds
    )
    metric = config.metric or (ACCURACY if config.labels else COSINE)

    def bench(pictures: torch.Tensor, labels: torch.Tensor | None) -> Bench:
        batches = in_batches(pictures.to(device), normalise)
        with torch.no_grad():
            outputs = features_of(model, batches)
        own = None if labels is None else labels.to(device)
        return Bench(batches, Quality(outputs, own, config.nearest, material.classes))

    ranking = bench(material.ranking, material.ranking_labels)
    measured = bench(material.measured, material.measured_labels)
    return Plan(subject, statistics, units_of(subject, config.by), metric, ranking, measured)
