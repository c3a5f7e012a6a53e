"""A small task of any class."""

from torch import Generator

from posattn.structure.partition import Cover, Partition
from posattn.theory.task import StructuredTask

D, DIM = 9, 5
PARTITION = Partition([0, 1, 2, 0, 1, 2, 0, 1, 2])


def made(kind: type[StructuredTask], generator: Generator, partition: Cover = PARTITION) -> StructuredTask:
    return kind(partition, dim=DIM, noise_rate=0.3, generator=generator)
