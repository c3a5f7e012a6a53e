"""What `transplant` says of its trainings on the targets."""

from dataclasses import replace

from small_trainings import tiny_vit

from posattn.recipes.transplant.run import (
    draw_per_class,
    steps_text,
    target_set,
    target_steps,
    target_training,
)
from posattn.recipes.transplant.settings import TargetTraining, transplant
from posattn.vision.training.loop import train


def test_the_steps_that_are_said_are_those_of_the_training() -> None:
    config = replace(transplant(smoke=True), target=TargetTraining(steps=12, batch_size=8))
    images = draw_per_class(target_set(config, "digits", "train"), 14, seed=0)
    *_, last = train(tiny_vit(), images, target_training(config, "scratch", len(images)))
    steps = [target_steps(config, "digits", size) for size in (2, 14)]
    assert steps == [12, 17]
    assert last.step == 17
    assert steps_text(12, steps) == "at least 12 steps, in whole epochs: 12, 17"
    assert steps_text(12, [12, 12]) == "12 steps each"
