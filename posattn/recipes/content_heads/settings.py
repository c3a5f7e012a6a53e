"""The settings of `posattn run content-heads`."""

from dataclasses import dataclass

from posattn.recipes import recipe
from posattn.recipes.kit.settings import ImageTraining, ModelSize
from posattn.settings import TwoOrMore
from posattn.vision.training.config import TrainConfig


@dataclass(frozen=True)
class ContentHeadsConfig(ImageTraining):
    """ViTs of several seeds, each converted head by head."""

    calibration: TwoOrMore = 1024
    """Random training images that attention is averaged over and heads are ranked on"""


@recipe
def content_heads(smoke: bool = False) -> ContentHeadsConfig:
    """Heads of trained ViTs converted to constant maps: which need content, and whether positionality predicts it.

    Claims: few heads need the image to know where to look; converting one at a time finds them. Positionality does
    not: on digits early layers are both more positional and more expensive to convert.
    Command: posattn run content-heads
    Time: 11 minutes on 2 cores shared with a dozen other processes; 3 minutes of CPU time.
    On CPUs with AVX2 only: 230 s of CPU time (AMD EPYC, beside other work).
    Expected (seeds 0 to 4, OMP_NUM_THREADS=1, --jobs 1, AMD EPYC with AVX2 only): test accuracy 93.3 ± 1.6 % before;
    with 8 of 16 heads replaced 90.9 ± 1.9 % if the cheapest go first, 61.9 ± 13.0 % if the most expensive do; 49.2 ±
    4.3 % with all. The cheapest head costs 0.0 points and the most expensive 7.1, mostly in the first block (3.7 ± 3.7
    per head, 0.1 in the last two). Rank correlation of positionality with the rise of the test loss 0.49 (95 % 0.31 to
    0.62), with the fall of the test accuracy 0.40 (0.20 to 0.56); 80 heads.
    With --seeds 3 --calibration 1437: rank correlation of positionality with the rise of the test loss 0.53 (95 % 0.27
    to 0.72), with the fall of the test accuracy 0.34 (0.05 to 0.59); 48 heads.
    """
    if not smoke:
        return ContentHeadsConfig(seeds=5)
    return ContentHeadsConfig(
        size=ModelSize(embed_dim=16, depth=2, num_heads=2),
        seeds=2,
        train=TrainConfig(epochs=8, batch_size=64, lr=1e-2, warmup_epochs=0.5, precision="float32"),
        calibration=256,
    )
