"""The page of `posattn run shuffle`."""

from posattn.recipes.shuffle.settings import ShuffleConfig
from posattn.runs.page import Section, Table
from posattn.runs.seeds import mean_std_text

PLAIN, PATCHES, PIXELS = "plain", "patches", "pixels"
ARRANGEMENTS = {PLAIN: "as they are", PATCHES: "patches shuffled", PIXELS: "pixels shuffled"}


def shuffle_section(config: ShuffleConfig, final: dict[str, dict[str, list[float]]]) -> Section:
    """The test accuracy of each model on each arrangement, and what shuffled patches cost, seed by seed."""
    losses = {
        name: [a - b for a, b in zip(final[PLAIN][name], final[PATCHES][name], strict=True)]
        for name in config.models
    }
    listed = ", ".join(f"{name} {mean_std_text(loss, 1, 100)}" for name, loss in losses.items())
    rows = [
        [name, *(mean_std_text(final[kind][name], 1, 100) for kind in ARRANGEMENTS)] for name in config.models
    ]
    return Section(
        "Shuffled images",
        "A model without built-in locality loses nothing when the order of the patches changes; one with locality "
        f"does. Points of test accuracy lost when the patches are shuffled: {listed}.",
        [
            Table(
                f"Test accuracy on {config.data.data}, %",
                ["model", *ARRANGEMENTS.values()],
                rows,
                caption=f"Mean ± std over {config.seeds} seeds, one permutation for all.",
            ),
        ],
    )
