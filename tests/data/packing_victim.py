"""A process that packs without end, to be killed: `python packing_victim.py`.

Everything that decodes writes a byte to standard output for each image.
"""

import os

from PIL import Image

from ganctl.data.packing import pack
from ganctl.data.sources import FaceSource


class Endless(FaceSource):
    """More faces than anybody waits for."""

    def read(self, index: int) -> Image.Image:
        os.write(1, b".")
        return super().read(index)


if __name__ == "__main__":
    os.cpu_count = lambda: 2
    from packing_victim import Endless as Found  # workers do not run this script: they import it

    pack(Found(10_000_000, 64), 8, None, lambda _done, _total: None)
