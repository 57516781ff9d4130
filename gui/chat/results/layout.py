"""Where the boxes of a graph stand: pushed apart by each other and held by their edges, then moved until none overlap.

The spring model of Fruchterman and Reingold (1991), with distances measured in boxes instead of points, so that wide
labels get the room they need. The same graph gives the same picture. Knows no Qt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_ROUNDS, _LEAST_ROUNDS, _PAIRS = 300, 60, 3_000_000
_GAP = (34.0, 40.0)  # pixels between boxes that do not touch, across and down
_SHAPE = 1.75  # width of the picture for its height, as far as the boxes allow it
_SEPARATIONS = 120

Points = npt.NDArray[np.float64]


def place(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Points:
    """Middles (n, 2) of n boxes with these widths and heights; edges: pairs of boxes that belong together."""
    n = len(sizes)
    box = np.asarray(sizes, dtype=np.float64).reshape(n, 2) + np.asarray(_GAP)
    if n < 2:
        return np.zeros((n, 2))
    angle = np.arange(n) * 2.399963  # the golden angle: a spiral has no two boxes in one place
    at = np.stack((np.cos(angle), np.sin(angle)), axis=1) * np.sqrt(np.arange(n) + 0.5)[:, None]  # (n, 2) in boxes
    pairs = np.asarray(sorted({(min(a, b), max(a, b)) for a, b in edges if a != b}), dtype=np.int64).reshape(-1, 2)
    rounds = max(_LEAST_ROUNDS, min(_ROUNDS, _PAIRS // (n * n)))
    for step in range(rounds):
        away = at[:, None, :] - at[None, :, :]  # (n, n, 2)
        distance = np.sqrt((away ** 2).sum(axis=2)) + 1e-6  # (n, n)
        push = (away / (distance ** 2)[:, :, None]).sum(axis=1)
        if len(pairs):
            along = at[pairs[:, 1]] - at[pairs[:, 0]]  # (m, 2)
            pull = along * np.sqrt((along ** 2).sum(axis=1))[:, None]
            np.add.at(push, pairs[:, 0], pull)
            np.add.at(push, pairs[:, 1], -pull)
        push -= 0.2 * at  # parts without a connection do not drift away
        length = np.sqrt((push ** 2).sum(axis=1)) + 1e-9
        limit = 0.6 * (1.0 - step / rounds) + 0.02
        at = at + push / length[:, None] * np.minimum(length, limit)[:, None]
    at = at * _spread(box)
    width, height = np.ptp(at, axis=0) + 1e-6
    at[:, 1] *= min(1.8, max(1.0, width / height / _SHAPE))  # a flat picture leaves room above and below it
    return separated(at, box)


def _spread(box: Points) -> Points:
    """Pixels (2,) for a distance of one: the area that a box takes, in the shape of the picture."""
    area = float(box.prod(axis=1).mean()) * 1.5
    return np.asarray(((area * _SHAPE) ** 0.5, (area / _SHAPE) ** 0.5))


def separated(at: Points, box: Points) -> Points:
    """The middles `at` (n, 2), moved so that boxes of sizes `box` (n, 2) overlap as little as can be."""
    at = at - at.mean(axis=0)
    for _ in range(_SEPARATIONS):
        away = at[:, None, :] - at[None, :, :]
        need = (box[:, None, :] + box[None, :, :]) / 2 - np.abs(away)  # (n, n, 2) overlap, positive where there is some
        hit = np.logical_and(need[:, :, 0] > 0.5, need[:, :, 1] > 0.5)
        np.fill_diagonal(hit, False)
        if not hit.any():
            break
        sign = np.where(away == 0, np.sign(np.arange(len(at))[:, None] - np.arange(len(at))[None, :])[:, :, None],
                        np.sign(away))
        across = need[:, :, 0] < need[:, :, 1]  # the shorter way out
        move = np.where(np.stack((across, ~across), axis=2), need, 0.0) * sign * hit[:, :, None]
        at = at + 0.5 * np.clip(move.sum(axis=1), -80.0, 80.0)
    return at
