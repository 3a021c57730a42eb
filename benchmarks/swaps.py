"""What each swap of `ganctl.models.swaps` does to one training step on the CPU.

All sides train the same networks in one process, step by step in turns, so that only what is put
in differs. Peak memory is that of all sides together; with one side, its own.

python -m benchmarks.swaps
python -m benchmarks.swaps --preset sagan-cifar10 --precision fp32 --sides plain winograd
"""

import argparse
import statistics

import torch

from benchmarks import rounds
from benchmarks.train_step import session_on_noise, timed
from ganctl import runtime
from ganctl.models import swaps
from ganctl.models.swaps import CHUNKED, OWN_BACKWARD, WINOGRAD, Swaps
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value

CPU = torch.device("cpu")
SIDES = {
    "plain": Swaps(),
    "winograd": Swaps(convolution=WINOGRAD),
    "chunked": Swaps(attention=CHUNKED),
    "own-backward": Swaps(pooling=OWN_BACKWARD),
}


def main() -> None:
    """Train with all sides in turns and print the least and the median time of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    chosen = parser.parse_args()
    imported = rounds.resident_peak()
    runtime.prepare(CPU)
    seconds = measure(
        chosen.preset, chosen.precision, chosen.batch_size, chosen.rounds, chosen.sides
    )
    print(f"{chosen.preset}, batch {chosen.batch_size}, {chosen.precision}:", end=" ")
    print(f"{rounds.resident_peak() - imported:.2f} GB at the peak")
    baseline = seconds[chosen.sides[0]]
    for side, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, baseline, strict=True))
        least, median = min(times), statistics.median(times)
        print(f"{side:12} {least:.3f} s at least, {median:.3f} s median, x {ratio:.3f} in turns")


def measure(
    preset: str, precision: str, batch_size: int, n_rounds: int, sides: list[str]
) -> dict[str, list[float]]:
    """Seconds of each round's step, by side; D is updated once a step."""
    settings: dict[str, Value] = {
        "optim.batch_size": batch_size, "optim.d_steps_per_g": 1, "train.precision": precision,
    }  # fmt: skip
    session = session_on_noise(replace(presets.load(preset), settings), "cpu")
    networks = session.state.generator, session.state.discriminator
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(n_rounds + 1):  # the first only warms up
        for side in sides if number % 2 else sides[::-1]:
            swaps.apply(SIDES[side], *networks)
            spent = timed(session.step, CPU)
            if number > 0:
                seconds[side].append(spent)
    return seconds


if __name__ == "__main__":
    main()
