"""Images that are there more than once: they count more, and hide that D learns them by heart."""

import numpy as np

from ganctl.data.stored import ImageArray

SAMPLED = 8  # every eighth pixel of every eighth row is compared first
CHUNK = 4096  # images that are looked at together


def groups_of_equal(images: ImageArray) -> list[list[int]]:
    """The numbers of images that are equal to the byte, group by group; images: (N, R, R, 3)."""
    corner = SAMPLED // 2
    sampled = [
        np.ascontiguousarray(images[start : start + CHUNK, corner::SAMPLED, corner::SAMPLED])
        for start in range(0, len(images), CHUNK)
    ]
    rows = np.concatenate(sampled).reshape(len(images), -1)
    _, kinds, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(kinds.ravel(), kind="stable")
    ends = np.cumsum(counts)
    alike = [order[end - count : end] for end, count in zip(ends, counts, strict=True) if count > 1]
    groups = [group for numbers in alike for group in _equal(images, numbers)]
    return sorted(groups)


def _equal(images: ImageArray, numbers: np.ndarray) -> list[list[int]]:
    """Of images whose sampled pixels are equal, those that are equal as a whole."""
    found: dict[bytes, list[int]] = {}
    for number in numbers.tolist():
        found.setdefault(images[number].tobytes(), []).append(number)
    return [group for group in found.values() if len(group) > 1]
