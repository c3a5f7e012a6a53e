"""Placing positions on a grid so that neighbours are similar: a quadratic assignment problem.

Embedding followed by assignment, and general solvers of quadratic assignment, leave well-fitting pieces in the wrong
places. This solver places one piece after another, the best fitting one first.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.manifold import SpectralEmbedding
from sklearn.preprocessing import scale

from posattn import checks
from posattn.vision.jigsaw.layout import Layout, Similarity, adjacency, checked_grid

Fit = Float[np.ndarray, "N N"]
Arrangement = Int[np.ndarray, "_ _"]  # the position at each place
EMPTY = -1
JITTER = 0.5  # largest noise on the fit while regrowing, in standard deviations of the fit
ANGLES = 24  # rotations of an embedding to try
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def recover_layout(
    similarity: Similarity, grid: tuple[int, int], *, rounds: int = 400, seed: int = 0
) -> Layout:
    """The layout that maximises the total similarity of neighbours, up to the grid's symmetries.

    An arrangement is grown from each position, the best fitting position next, then improved by exchanges. In every
    round a random block of the best arrangement is kept and the rest is grown again.

    Args:
        similarity: (N, N) of positions.
        grid: (H, W) with N places.
        rounds: of regrowing a part.
        seed: of the random blocks.

    Raises:
        TypeError, ValueError: the similarity is not finite or not of that grid, or a count is negative.
    """
    checks.natural("rounds", rounds)
    grid = checked_grid(grid)
    fit = as_fit(similarity, grid)
    starts = [
        grown(fit, np.array([[position]]), shape)
        for shape in {grid, grid[::-1]}
        for position in range(len(fit))
    ]
    best = max((improved(fit, start) for start in starts), key=lambda one: total(fit, one))
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        noise = generator.normal(size=fit.shape) * generator.uniform(0, JITTER) * fit.std()
        again = improved(fit, grown(fit + noise + noise.T, random_block(best, generator), best.shape))
        best = max(again, best, key=lambda one: total(fit, one))
    upright = best if best.shape == tuple(grid) else best.T
    return torch.from_numpy(upright.flatten().argsort())


def assigned_layout(similarity: Similarity, grid: tuple[int, int]) -> Layout:
    """A faster, less accurate layout: spectral embedding in the plane, assignment to the grid, then exchanges.

    The embedding is rotated by several angles and the best arrangement is returned. Raises ValueError as above, and for
    fewer than three places, which have no embedding in the plane.
    """
    fit = as_fit(similarity, grid)
    if len(fit) < 3:
        raise ValueError(f"a grid must have at least three places to embed, got {grid}")
    embedding = SpectralEmbedding(2, affinity="precomputed", random_state=0).fit_transform(fit.clip(0))
    rows, columns = np.divmod(np.arange(len(fit)), grid[1])
    places, points = (scale(at) for at in (np.stack([rows, columns], 1).astype(float), embedding))
    arrangements = []
    for angle in np.linspace(0, np.pi, ANGLES, endpoint=False):  # half a turn is a symmetry of every grid
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assigned = linear_sum_assignment(cdist(places, points @ turn, "sqeuclidean"))[1]
        arrangements.append(improved(fit, assigned.reshape(grid)))
    best = max(arrangements, key=lambda one: total(fit, one))
    return torch.from_numpy(best.flatten().argsort())


def as_fit(similarity: Similarity, grid: tuple[int, int]) -> Fit:
    """The symmetric part with mean 0, so that the number of a place's neighbours does not matter."""
    height, width = checked_grid(grid)
    N = height * width
    if similarity.shape != (N, N) or not similarity.isfinite().all():
        raise ValueError(f"similarity must be finite and ({N}, {N}), got {tuple(similarity.shape)}")
    fit = similarity.detach().cpu().double().numpy()
    others = ~np.eye(N, dtype=bool)
    return np.where(others, (fit + fit.T) / 2 - fit[others].mean(), 0.0)


def grown(fit: Fit, block: Arrangement, shape: tuple[int, ...]) -> Arrangement:
    """Complete a block to a whole arrangement, placing the best fitting position each time."""
    H, W = shape
    canvas = np.full((2 * H + 1, 2 * W + 1), EMPTY)  # the block may end up anywhere in the grid
    gain = np.zeros((len(fit), *canvas.shape))
    touched = np.zeros(canvas.shape, bool)

    def put(position: int, row: int, column: int) -> None:
        canvas[row, column] = position
        for down, right in STEPS:
            gain[:, row + down, column + right] += fit[:, position]
            touched[row + down, column + right] = True

    for (row, column), position in np.ndenumerate(block):
        put(int(position), H + row, W + column)
    unused = np.ones(len(fit), bool)
    unused[block] = False
    while unused.any():
        window = reach(canvas, (H, W))
        open_places = (touched & (canvas == EMPTY))[window]
        offers = np.where(open_places & unused[:, None, None], gain[:, *window], -np.inf)
        position, row, column = np.unravel_index(offers.argmax(), offers.shape)
        put(int(position), int(row) + window[0].start, int(column) + window[1].start)
        unused[position] = False
    return canvas[reach(canvas, (H, W))]


def reach(canvas: NDArray[np.int64], shape: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns that a grid of that shape can reach while it covers everything on the canvas."""
    taken = np.nonzero(canvas != EMPTY)
    rows, columns = (
        slice(int(at.max()) - side + 1, int(at.min()) + side) for at, side in zip(taken, shape, strict=True)
    )
    return rows, columns


def improved(fit: Fit, arrangement: Arrangement) -> Arrangement:
    """The arrangement after exchanging pairs of positions, the best exchange first, until none improves it."""
    near = adjacency(arrangement.shape).numpy().astype(float)
    order = arrangement.flatten()
    while True:
        here = fit[np.ix_(order, order)]
        sums = near @ here
        own = sums.diagonal()
        gains = sums + sums.T - own[:, None] - own + 2 * near * here
        first, second = np.unravel_index(gains.argmax(), gains.shape)
        if gains[first, second] < 1e-9:
            return order.reshape(arrangement.shape)
        order[[first, second]] = order[[second, first]]


def total(fit: Fit, arrangement: Arrangement) -> float:
    """The sum of the fit over neighbouring places."""
    down = fit[arrangement[1:], arrangement[:-1]].sum()
    return float(down + fit[arrangement[:, 1:], arrangement[:, :-1]].sum())


def random_block(arrangement: Arrangement, generator: np.random.Generator) -> Arrangement:
    """A random rectangle of the arrangement."""
    spans = []
    for side in arrangement.shape:
        length = generator.integers(1, side + 1)
        start = generator.integers(0, side - length + 1)
        spans.append(slice(start, start + length))
    return arrangement[tuple(spans)]
