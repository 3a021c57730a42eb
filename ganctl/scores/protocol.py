"""How a score was measured, as data and in words: only figures of one protocol are comparable."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 10_000  # features of a set that all but the Frechet distance look at, at most


@dataclass(frozen=True)
class Protocol:
    """All that a score depends on besides the generator."""

    features: str
    weights: str  # SHA-256 of the features' file
    resize: str  # how images become the network's input
    resolution: int  # side of the images, both kinds, in pixels
    real: str  # which real images: "training images", ...
    real_digest: str  # of their pixels
    real_images: int
    fake: str  # which others: "seeds 0 to 4,999 of the averaged generator", ...
    fake_images: int
    kept: int = KEPT

    def key(self) -> str:
        """Short, and equal for equal protocols: real images are known by their pixels."""
        text = json.dumps({**asdict(self), "real": ""}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_data(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"key": self.key(), **asdict(self)}

    def label(self) -> str:
        """In one line; equal for equal protocols only."""
        return (
            f"{self.features}: {self.fake_images:,} images ({self.fake}) against"
            f" {self.real_images:,} ({self.real}) at {self.resolution} px [{self.key()}]"
        )

    def words(self) -> list[str]:
        """A few sentences."""
        least = min(self.real_images, self.fake_images)
        first = f"{self.fake_images:,} images ({self.fake})"
        second = f"{self.real_images:,} real ones ({self.real})"
        kept = f", all but {distance_name(self.features)} of {self.kept:,} of each"
        return [
            f"Compared: {first} against {second}, {self.resolution} x {self.resolution} pixels"
            f"{kept if least > self.kept else ''}.",
            f"Features: {self.features}, weights {self.weights[:8]}; images are {self.resize}.",
        ]


def distance_name(features: str) -> str:
    """What the Frechet distance of these features is called: FID, or nothing like it."""
    return "FID" if features == "Inception" else f"FD ({features})"


def kernel_name(features: str) -> str:
    """What the kernel distance of these features is called."""
    return "KID" if features == "Inception" else f"KID ({features})"


def floor_words(real_images: int, images: int | None) -> str:
    """What the floor is of, in a sentence; `images` of each side, None if there were too few."""
    if images is None:
        return "Floor: too few real images to compare them with each other."
    if images == real_images:
        return f"Floor: {images:,} other real images, in the place of the generated ones."
    return (
        f"Floor: one half of the real images against the other, {images:,} each; with fewer"
        " images the Frechet distance is larger."
    )


def in_words(row: Mapping[str, Any]) -> str:
    """The figures of a scored row of metrics.jsonl, named after what they were measured with."""
    features = str(row["score_protocol"]).partition(":")[0]
    return (
        f"{distance_name(features)} {row['score_fd']:.1f},"
        f" {kernel_name(features)} {row['score_kid']:.4f} +- {row['score_kid_error']:.4f},"
        f" coverage {row['score_coverage']:.2f}"
    )
