"""Operations dispatched by one training step: on a GPU each is a kernel to be launched.

Counted on the CPU, batch 2, fp32, with plain networks. Views and their like move no data and are
left out, as are the profiler's marks.

python -m benchmarks.operations
python -m benchmarks.operations --presets sngan-cifar10 sagan-imagenet128
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train_step import session_on_noise
from ganctl.models import swaps
from ganctl.models.swaps import Swaps
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value

PRESETS = ("celeba64", "sagan-celeba64")
NO_WORK = {"_unsafe_view", "detach", "_record_function_enter_new", "_record_function_exit"}
MOST = 12  # kinds of operations that are listed


class Dispatched(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = function.overloadpacket.__name__
        if not function.is_view and name not in NO_WORK:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    """Print a line for each preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=presets.names())
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    results = {name: of_a_step(name) for name in chosen.presets}
    if chosen.json:
        print(json.dumps(results))
        return
    table = Table("preset", "operations", "most of them", title="operations of one training step")
    for name, counts in results.items():
        most = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(MOST))
        table.add_row(name, f"{counts.total():,}", most)
    Console(width=150).print(table)


def of_a_step(preset: str) -> Counter[str]:
    """Of the second step of a preset: the first one also makes Adam's moments."""
    changes: dict[str, Value] = {"optim.batch_size": 2, "train.precision": "fp32"}
    session = session_on_noise(replace(presets.load(preset), changes), "cpu")
    swaps.apply(Swaps(), session.state.generator, session.state.discriminator)
    session.step()
    return count(session.step)


def count(step: Callable[[], object]) -> Counter[str]:
    """How often each operation is dispatched by `step`, by name."""
    with Dispatched() as dispatched:
        step()
    return dispatched.counts


if __name__ == "__main__":
    main()
