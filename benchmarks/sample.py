"""Images a second from a generator: ganctl against plain PyTorch, in turns.

python -m benchmarks.sample
"""

import json
import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks import reference, rounds
from benchmarks.train_step import timed
from ganctl import runtime
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.sampling.draw import Point, draw
from ganctl.sampling.pictures import to_uint8
from ganctl.settings import presets
from ganctl.settings.config import Config, replace

SIDES = ("reference", "reference-full", "ganctl-fp32", "ganctl-auto")
BATCH = 64


def main() -> None:
    """Run all sides in turns and print the table; with --side measure that one and print JSON."""
    parser = rounds.parser(__doc__, SIDES)
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=512, help="drawn by each side, in 64s")
    chosen = parser.parse_args()
    if chosen.side:
        print(
            json.dumps(
                measure(chosen.side, presets.load(chosen.preset), chosen.device, chosen.images)
            )
        )
        return
    options = ["--preset", chosen.preset, "--device", chosen.device]
    options += ["--images", str(chosen.images)]
    results = rounds.in_turns("benchmarks.sample", SIDES, chosen.rounds, options)
    title = f"sampling {chosen.preset}, {torch.get_num_threads()} threads"
    rounds.report(title, results, SIDES[:2], "seconds", chosen.json)


def measure(side: str, config: Config, device_name: str, images_drawn: int) -> rounds.Figures:
    """Figures of one side, for images as uint8 in main memory."""
    device = runtime.choose_device(device_name)
    runtime.prepare(device)
    generator, _ = build_networks(config.model, config.data, random_stream(0, "init"))
    imported = rounds.resident_peak()
    if side.startswith("ganctl"):
        wanted = side.removeprefix("ganctl-")
        precision = runtime.choose_precision(wanted, device)
        points = [Point(seed) for seed in range(images_drawn)]

        def images() -> Iterator[object]:
            return draw(generator, points, batch_size=BATCH, device=device, precision=precision)
    else:
        images = plainly(side, config, device, images_drawn)
    seconds = [timed(lambda: list(images()), device) for _ in range(4)][1:]
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "images/s": images_drawn / median,
        "peak GB": rounds.resident_peak() - imported,
    }


def plainly(
    side: str, config: Config, device: torch.device, count: int
) -> Callable[[], Iterator[object]]:
    """The plain generator in eval mode, batch by batch."""
    attention = {**config.model.attention.model_dump(), "pooled": side == "reference"}
    plain, _ = reference.build(replace(config, {"model.attention": attention}))
    plain = plain.to(device).eval()

    @torch.no_grad()
    def images() -> Iterator[object]:
        for _ in range(count // BATCH):
            yield to_uint8(plain(torch.randn(BATCH, config.model.latent_dim, device=device)))

    return images


if __name__ == "__main__":
    main()
