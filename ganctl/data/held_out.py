"""Images that a run is never trained on, so that it shows when D learns the others by heart."""

import numpy as np

from ganctl.runtime import random_words

FEWEST, MOST = 16, 512  # images that are held out, whatever their share
ENOUGH = 4 * FEWEST  # with fewer images none is held out: all are needed


def possible(share: float, n: int) -> bool:
    """Whether any of n images are held out, where `share` of them should be."""
    return share > 0 and n >= ENOUGH


def draw(share: float, n: int, seed: int, fingerprint: str, labels: np.ndarray) -> np.ndarray:
    """(K,) int64, ascending: which of n images are held out; a pure function of its arguments.

    K is `share` of them, at least FEWEST and at most MOST, or 0. labels: (n,) the images' classes,
    or (0,) without; at most half of the images of a class are held out.
    """
    if not possible(share, n):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(random_words(seed, f"held out/{fingerprint}", 0, n, 1)[:, 0], kind="stable")
    if len(labels):
        order = order[_first_halves(labels[order])]
    count = min(max(round(share * n), FEWEST), MOST)
    return np.sort(order[:count])


def _first_halves(labels: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an image is in the first half of those of its class."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        (places,) = np.nonzero(labels == label)
        chosen[places[: len(places) // 2]] = True
    return chosen
