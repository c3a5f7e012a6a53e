"""The state of a training and what a step does to it."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, Int
from timm.utils import ModelEmaV3
from torch import Generator, Tensor, nn

from posattn import checks
from posattn.runs.device import choose_precision
from posattn.settings import check
from posattn.vision.data.augment import derived_seed, make_mixer
from posattn.vision.data.decoding import Images
from posattn.vision.data.images import ImageSet
from posattn.vision.data.streams import ImageStream
from posattn.vision.training.compiling import compiled, compiler_of
from posattn.vision.training.config import TrainConfig
from posattn.vision.training.inputs import Batch, check_fits, epoch_batches, prepare
from posattn.vision.training.memory import memory_advice
from posattn.vision.training.optimization import make_optimizer, make_schedule
from posattn.vision.training.precision import attention_for, refuse_settings_of
from posattn.vision.training.record import TrainRecord
from posattn.vision.training.structure import structure

Transform = Callable[[Tensor], Tensor]
# purposes of derived seeds: the order of the images in an epoch, the draws of a step, those of the policy
ORDER, STEP, POLICY = 1, 2, 3


class Training:
    """The state of a training: everything that a step changes."""

    def __init__(
        self,
        model: nn.Module,
        train_set: ImageSet | ImageStream,
        config: TrainConfig,
        seed: int,
        transform: Transform | None,
        accelerator: Accelerator,
    ) -> None:
        check(config)
        refuse_settings_of(accelerator)
        self.config, self.seed = config, seed
        self.transform, self.accelerator = transform, accelerator
        parts = accelerator.num_processes * config.accumulation
        self.part_size = checks.divides("processes x accumulation", parts, "batch_size", config.batch_size)
        self.steps_per_epoch = len(train_set) // config.batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch_size must be at most {len(train_set)}, the training images, got {config.batch_size}"
            )
        self.steps = config.epochs * self.steps_per_epoch
        self.device = accelerator.device
        self.dtype = choose_precision(config.precision, str(self.device)).dtype
        outputs = check_fits(model, train_set)  # before the model is changed
        self.model = model.to(self.device).train()
        self.train_set = train_set.to(self.device)
        # of attention, with -inf; everything else must stay finite
        self.masks = {name for name, buffer in model.named_buffers() if buffer.isinf().any()}
        self.mixer = make_mixer(config.mixup, config.cutmix, outputs, config.mix_prob)
        self.optimizer = make_optimizer(model, config)
        self.scheduler = make_schedule(self.optimizer, config, self.steps_per_epoch)
        self.compiled = config.compile and bool(compiler_of(self.device.type))
        if self.compiled:
            torch.compiler.reset()  # else models trained earlier count against torch's limit of graphs
        # graphs hold one backward's gradients, and DDP's hooks are outside of them
        self.graphs = self.compiled and self.device.type == "cuda" and parts == 1
        self.runner = accelerator.prepare_model(compiled(model, self.graphs) if self.compiled else model)
        # from now on the weights are those of the first process
        self.ema = None if config.ema_decay is None else ModelEmaV3(model, decay=config.ema_decay)
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        self.unrecorded = 0.0, 0.0  # wall and CPU seconds since the last record, before an interruption
        self.start_clocks()
        self.losses: list[Tensor] = []  # of the steps since the last record
        self.last: TrainRecord | None = None
        self.notes: list[Any] = []  # the caller's
        self.feed: Iterator[Batch] | None = None  # of the epoch feed_epoch
        self.feed_epoch = 0

    @cached_property
    def data_sha256(self) -> str:
        """The digest of the training images and their labels."""
        return self.train_set.digest

    @cached_property
    def structure(self) -> dict[str, str]:
        """What the model is made of."""
        return structure(self.model)

    @property
    def averaged(self) -> nn.Module:
        """The model to evaluate."""
        return self.model if self.ema is None else self.ema.module

    @property
    def record_due(self) -> bool:
        in_epoch = self.step % self.steps_per_epoch
        return in_epoch == 0 or in_epoch % self.config.record_every == 0 or self.checkpoint_due

    @property
    def checkpoint_due(self) -> bool:
        return self.step == self.steps or self.step % self.config.checkpoint_every == 0

    def update(self) -> None:
        """One optimizer step on the next batch."""
        config = self.config
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        devices = [self.device] if self.device.type == "cuda" else []
        # the caller's generators stay as they were
        how = f"batch_size {config.batch_size} in {config.accumulation} part(s): raise accumulation or lower batch_size"
        with torch.random.fork_rng(devices), memory_advice(how):
            torch.manual_seed(derived_seed(self.seed, STEP, self.accelerator.process_index, self.step))
            self.losses.append(self.accumulate())
            if config.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr = self.optimizer.param_groups[0]["lr"]
        self.step += 1
        self.scheduler.step_update(self.step)
        if self.ema is not None:
            self.ema.update(self.model)

    def accumulate(self) -> Float[Tensor, ""]:
        """Accumulate the gradients of this process's share of a batch, part by part; return the mean loss."""
        parts = self.config.accumulation
        total = torch.zeros((), device=self.device)
        for number in range(1, parts + 1):
            with nullcontext() if number == parts else self.accelerator.no_sync(self.runner):
                loss = self.loss(*self.next_part()) / parts
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def next_part(self) -> Batch:
        """The next images and labels of this process; the set is reshuffled each epoch."""
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        if self.feed is None or epoch != self.feed_epoch:
            seed = derived_seed(self.seed, ORDER, epoch)
            order = torch.randperm(len(self.train_set), generator=Generator().manual_seed(seed))
            order = order[: self.steps_per_epoch * self.config.batch_size].to(self.device)
            count, rank = self.config.accumulation, self.accelerator.process_index
            parts = order.view(self.steps_per_epoch, count, self.accelerator.num_processes, self.part_size)
            own = list(parts[:, :, rank].flatten(0, 1))

            def draws(first: int) -> int:
                return derived_seed(self.seed, POLICY, rank, epoch, first)

            start = batch * count
            self.feed = epoch_batches(self.train_set, own, self.config.policy, seed, draws, start)
            self.feed_epoch = epoch
        return next(self.feed)

    def loss(self, images: Images, labels: Int[Tensor, " size"]) -> Float[Tensor, ""]:
        """The cross-entropy on the augmented images."""
        config = self.config
        pixels, targets = prepare(images, labels, config, self.mixer)
        if self.transform is not None:
            pixels = self.transform(pixels)
        kind, half = self.device.type, self.dtype == "bfloat16"
        with attention_for(self.model, kind, self.dtype), torch.autocast(kind, torch.bfloat16, enabled=half):
            logits = self.runner(pixels)
        return F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)

    def finite_losses(self) -> Float[Tensor, " steps"]:
        """The losses since the last record, over all processes, else FloatingPointError naming the step."""
        if not self.losses:
            return torch.zeros(0)
        losses = self.accelerator.reduce(torch.stack(self.losses), "mean").cpu()
        if bad := (~losses.isfinite()).nonzero().flatten().tolist():
            step = self.step - len(losses) + bad[0] + 1
            raise FloatingPointError(
                f"the loss became {losses[bad[0]].item()} at step {step} of {self.steps}"
            )
        return losses

    def record(self) -> TrainRecord:
        """The record of the steps since the last one."""
        loss = self.finite_losses().mean().item()
        passed, cpu_passed = self.passed()
        speed = len(self.losses) * self.config.batch_size / passed
        self.seconds += passed
        self.cpu_seconds += cpu_passed
        self.losses = []
        self.start_clocks()
        self.last = TrainRecord(
            step=self.step,
            steps=self.steps,
            epoch=self.step / self.steps_per_epoch,
            loss=loss,
            lr=self.lr,
            images_per_second=speed,
            seconds=self.seconds,
            end_of_epoch=self.step % self.steps_per_epoch == 0,
            precision=self.dtype,
            model=self.averaged,
            compiled=self.compiled,
            cpu_seconds=self.cpu_seconds,
        )
        return self.last

    def start_clocks(self, wall: float = 0.0, cpu: float = 0.0) -> None:
        """Measure the seconds of the next record from now on, as if so many had passed."""
        self.clock, self.cpu_clock = time.perf_counter() - wall, time.process_time() - cpu

    def passed(self) -> tuple[float, float]:
        """Wall and CPU seconds since the last record."""
        return time.perf_counter() - self.clock, time.process_time() - self.cpu_clock

    def agree(self, stop: bool) -> bool:
        """Whether to stop now: processes stop together, at a step with a record."""
        if self.accelerator.num_processes == 1:
            return stop
        if not self.record_due:
            return False
        return bool(self.accelerator.reduce(torch.tensor(float(stop), device=self.device), "sum") > 0)

    def finish(self) -> None:
        """Leave the averaged weights in the model."""
        if self.ema is not None:
            self.model.load_state_dict(self.ema.module.state_dict())
