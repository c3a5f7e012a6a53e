"""What `transplant` says of its trainings on the targets."""

from dataclasses import replace

from small_trainings import tiny_vit

from posattn.recipes.transplant.run import (
    ARMS,
    draw_per_class,
    steps_text,
    target_section,
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


def test_a_single_size_is_said_once() -> None:
    """Its accuracies were said twice, and of 1 images."""
    accuracies = dict(zip(ARMS, ([0.5], [0.25], [0.75], [0.125]), strict=True))
    numbers = {"size": [1], "steps": [5], "seeds": [accuracies], "mean": accuracies}
    config = replace(transplant(smoke=True), seeds=1)
    assert target_section(config, "digits", numbers).claim == (
        "With 1 image per class of digits, frozen maps of digits gave 50.0 %, training from scratch 25.0 %, "
        "fine-tuning of the whole model 75.0 % and maps of random locality 12.5 %."
    )
    two = {arm: [*values, 0.5] for arm, values in accuracies.items()}
    numbers = {"size": [1, 9], "steps": [5, 5], "seeds": [two], "mean": two}
    assert target_section(config, "digits", numbers).claim.endswith(
        "locality 12.5 %; with 9, 50.0 %, 50.0 %, 50.0 % and 50.0 %."
    )


def test_sizes_that_are_skipped_are_named() -> None:
    accuracies = {arm: [0.5, 0.5] for arm in ARMS}
    numbers = {"size": [2, 8], "steps": [5, 5], "seeds": [accuracies], "mean": accuracies}
    config = replace(transplant(smoke=True), seeds=1)
    for sizes, said in (((2, 8), False), ((2, 8, 300, 1000), True)):
        figure = target_section(replace(config, sizes=sizes), "digits", numbers).items[0]
        assert ("a class of digits has fewer images: 300, 1000 per class" in figure.caption) == said
