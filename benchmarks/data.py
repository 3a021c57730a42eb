"""The data path: batches from the packed array, and packing against plain Pillow, in turns.

python -m benchmarks.data
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import rounds
from ganctl.data.faces import draw_face
from ganctl.data.packing import pack
from ganctl.data.sources import open_source

PACKING = ("pillow", "ganctl")
SIZE, BATCH = 64, 64


def main() -> None:
    """Print both tables; with --side measure that one and print JSON."""
    parser = rounds.parser(__doc__, (*PACKING, "batches"))
    parser.add_argument("--folder", type=Path, help="set by the benchmark itself")
    parser.add_argument("--files", type=int, default=20_000)  # a tenth of CelebA
    chosen = parser.parse_args()
    if chosen.side:
        measured = batches() if chosen.side == "batches" else packing(chosen.side, chosen.folder)
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), chosen.files)
        options = ["--folder", folder]
        packed = rounds.in_turns("benchmarks.data", PACKING, chosen.rounds, options)
    title = f"packing {chosen.files:,} JPEG files of 178 x 218 to {SIZE} px, {os.cpu_count()} cores"
    rounds.report(title, packed, PACKING[:1], "seconds", chosen.json)
    read = rounds.in_turns("benchmarks.data", ["batches"], chosen.rounds, [])
    rounds.report(f"batches of {BATCH} at {SIZE} px, one thread", read, [], "seconds", chosen.json)


def write_files(folder: Path, count: int) -> None:
    """`count` distinct JPEG files with some noise, as photographs have."""
    random = np.random.default_rng(0)
    for index in range(count):
        face = np.asarray(draw_face(index, 218))[:, 20:198].astype(np.int16)
        noisy = (face + random.integers(-12, 13, face.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:06}.jpg", quality=92)


def packing(side: str, folder: Path) -> rounds.Figures:
    """Seconds to decode, crop and resize all files into one array."""
    started_at = time.perf_counter()
    if side == "pillow":
        images = []
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                square = image.convert("RGB").crop((0, 20, 178, 198))
                small = square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                images.append(np.asarray(small))
        pixels = np.stack(images)
    else:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["GANCTL_CACHE"] = cache
            source = open_source(str(folder), SIZE)
            pixels = np.asarray(pack(source, SIZE, 178, lambda done, total: None).images)
    seconds = time.perf_counter() - started_at
    return {
        "seconds": seconds,
        "images/s": len(pixels) / seconds,
        "sum of pixels": float(pixels.sum()),
    }


def batches() -> rounds.Figures:
    """Seconds for a batch to come from the mapped array to fp32 in [-1, 1]."""
    import torch  # not at the top: the processes that decode import this module too

    from ganctl.data.batches import Batches

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.u8"
        pixels = np.random.default_rng(0).integers(0, 256, (20_000, SIZE, SIZE, 3), np.uint8)
        pixels.tofile(path)
        mapped = np.memmap(path, np.uint8, "r", shape=pixels.shape)
        stream = Batches(mapped, seed=0, flip=False, dequantize=False, device=torch.device("cpu"))
        stream.at(0, BATCH)
        count = 300
        started_at = time.perf_counter()
        for number in range(1, count + 1):
            stream.at(number * BATCH, BATCH)
        seconds = (time.perf_counter() - started_at) / count
    return {"seconds": seconds, "images/s": BATCH / seconds}


if __name__ == "__main__":
    main()
