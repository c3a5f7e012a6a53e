"""What a training reports of itself."""

from typing import Any, NamedTuple

from torch import nn


class TrainRecord(NamedTuple):
    """The progress since the previous record."""

    step: int  # optimizer steps done
    steps: int  # of the whole training
    epoch: float  # completed passes over the set
    loss: float  # mean training loss since the previous record
    lr: float  # of the last step
    images_per_second: float
    seconds: float  # training time so far, including interrupted parts, without what is done between records
    end_of_epoch: bool
    precision: str  # float32 or bfloat16
    model: nn.Module  # to evaluate: with the averaged weights if there are any
    compiled: bool = False
    cpu_seconds: float = 0.0  # as seconds, of this process on the CPU: what it takes alone on the machine

    @property
    def scalars(self) -> dict[str, Any]:
        """Everything except the model, for logs."""
        return {name: value for name, value in self._asdict().items() if name != "model"}
