"""Frames as an .mp4 file, by PyAV, which is not installed by itself."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ganctl.errors import ConfigError
from ganctl.store.durable import replacing

CONSTANT_QUALITY = "14"  # of H.264: lower is better, from 18 on hardly to be told from the original


def need_av() -> None:
    """Raise ConfigError if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        hint = "pip install av; .webp and .gif need nothing"
        raise ConfigError("an .mp4 needs PyAV, which is not installed", hint) from None


def write_mp4(frames: Iterable[np.ndarray], path: Path, frame_ms: int) -> None:
    """Write (H, W, 3) uint8 frames, H and W even, one after another: complete, or not at all."""
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1000, frame_ms))
        stream.pix_fmt = "yuv420p"  # what every player shows
        stream.options = {"crf": CONSTANT_QUALITY}
        for number, image in enumerate(frames):
            if number == 0:  # the first one opens the encoder
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
