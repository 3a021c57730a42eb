"""Time, memory and arithmetic of one training step: ganctl against plain PyTorch, in turns.

python -m benchmarks.train_step
python -m benchmarks.train_step --batch-size 16 --rounds 3 --sides ganctl-fp32 reference
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reference, rounds
from benchmarks.limit import products_alone
from ganctl import runtime, session
from ganctl.data.images import Images
from ganctl.data.labels import Labels
from ganctl.data.packing import PackedImages
from ganctl.session import Session
from ganctl.settings import presets
from ganctl.settings.config import Config, replace

SIDES = ("reference", "reference-full", "ganctl-fp32", "ganctl-auto")
WARM_UP, STEPS = 2, 3


def main() -> None:
    """Run all sides in turns and print the table; with --side measure that one and print JSON."""
    parser = rounds.parser(__doc__, SIDES)
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measure(chosen.side, chosen.preset, chosen.batch_size, chosen.device)))
        return
    options = [
        "--preset",
        chosen.preset,
        "--batch-size",
        str(chosen.batch_size),
        "--device",
        chosen.device,
    ]
    results = rounds.in_turns("benchmarks.train_step", chosen.sides, chosen.rounds, options)
    baselines = [side for side in SIDES[:2] if side in chosen.sides]
    title = (
        f"one step of {chosen.preset}, batch {chosen.batch_size}, {torch.get_num_threads()} threads"
    )
    rounds.report(title, results, baselines, "seconds", chosen.json)


def measure(side: str, preset: str, batch_size: int, device_name: str) -> rounds.Figures:
    """Figures of one side; peak memory is what the step needs above what importing took."""
    device = runtime.choose_device(device_name)
    config = replace(presets.load(preset), {"optim.batch_size": batch_size})
    imported = rounds.resident_peak()
    step: Callable[[], object]
    if side.startswith("ganctl"):
        config = replace(config, {"train.precision": side.removeprefix("ganctl-")})
        step = session_on_noise(config, device_name).step
    else:
        runtime.prepare(device)
        step = reference_step(config, side, device)
    for _ in range(WARM_UP):
        step()
    seconds = statistics.median(timed(step, device) for _ in range(STEPS))
    on_gpu = device.type == "cuda"
    memory = (
        torch.cuda.max_memory_allocated() / 1e9 if on_gpu else rounds.resident_peak() - imported
    )
    with FlopCounterMode(display=False) as counter:
        step()
    return {
        "seconds": seconds,
        "images/s": batch_size / seconds,
        "peak GB": memory,
        "GFLOP/image": counter.get_total_flops() / batch_size / 1e9,
        "limit %": 100 * products_alone(step, device) / seconds,
    }


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with the device waited for at both ends."""
    runtime.synchronize(device)
    started_at = time.perf_counter()
    step()
    runtime.synchronize(device)
    return time.perf_counter() - started_at


def session_on_noise(config: Config, device_name: str) -> Session:
    """A session whose images are random pixels, of ten classes if the model is conditional."""
    random, size = np.random.default_rng(0), config.data.resolution
    pixels = random.integers(0, 256, (1000, size, size, 3), np.uint8)
    classes = tuple(map(str, range(10))) if config.model.conditional else ()
    labels = Labels(classes, np.arange(len(pixels)) % 10)
    return session.new(config, device_name, Images(PackedImages(pixels, "", []), labels))


def reference_step(config: Config, side: str, device: torch.device) -> Callable[[], object]:
    """The plain step; "reference-full" attends to all positions, as the article does."""
    config = replace(config, {"model.attention": {
        **config.model.attention.model_dump(), "pooled": side == "reference",
    }})  # fmt: skip
    trainer = reference.Trainer(config, device)
    resolution = config.data.resolution
    real = torch.rand(config.optim.batch_size, 3, resolution, resolution, device=device) * 2 - 1
    return lambda: trainer.step(real)


if __name__ == "__main__":
    main()
