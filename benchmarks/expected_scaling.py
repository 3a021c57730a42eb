"""What several GPUs should give, computed from link speeds: nothing here is measured.

The formulas are those of docs/scaling.md.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ganctl.data.batches import Batches
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.training import state
from ganctl.training.inputs import Inputs
from ganctl.training.step import train_step

PRESETS = ("celeba64", "sagan-imagenet128")
GPUS = (1, 8, 16, 32, 64, 128, 256)
A_MACHINE = 8  # GPUs
# Assumed of a current data-centre GPU; a step is at least as long as its kernels take to launch.
FLOPS = 150e12  # bf16, of the 989e12 on the data sheet
LAUNCHES = 10e-3  # seconds a step
# Assumed of links: bytes a second and process, and seconds for a message to a neighbour.
INSIDE, BETWEEN = 200e9, 40e9  # NVLink; InfiniBand of 400 Gbit/s for each GPU
NEAR, FAR = 10e-6, 20e-6


class Cost(NamedTuple):
    """What a step of a preset computes and sends."""

    flop: float  # of an image
    gradients: tuple[int, ...]  # bytes of each flat reduction in a step
    moments: int  # collective operations of batch norm in a step


class Expected(NamedTuple):
    """Of a number of GPUs."""

    compute: float  # seconds a step
    communicate: float

    def efficiency(self, alone: float) -> float:
        """Of the speed of as many GPUs that need not talk; `alone`: their seconds a step."""
        return alone / (self.compute + self.communicate)


def cost(preset: str) -> Cost:
    """Counted on networks without memory."""
    config = replace(presets.load(preset), {"optim.batch_size": 2, "train.precision": "fp32"})
    side, meta = config.data.resolution, torch.device("meta")
    classes = 1000 if config.model.conditional else 0
    labels = np.zeros(2, np.int64) if classes else None
    images = np.zeros((2, side, side, 3), np.uint8)
    batches = Batches(
        images, labels=labels, seed=0, flip=False, dequantize=False, device=meta
    )  # fmt: skip
    with meta:
        made = state.create(config, meta, classes)
    with FlopCounterMode(display=False) as counter:
        train_step(made, Inputs(config, batches, classes).of(0), config)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in made.generator.modules())
    g, d = (
        4 * sum(p.numel() for p in network.parameters())
        for network in (made.generator, made.discriminator)
    )
    updates = config.optim.d_steps_per_g
    # Forward in each update of D; forward and backward in that of G.
    return Cost(counter.get_total_flops() / 2, (d,) * updates + (g,), norms * (updates + 2))


def seconds_to_reduce(size: int, gpus: int) -> float:
    """All-reduce of `size` bytes: rings inside machines and between them, trees for latency."""
    machines, inside = math.ceil(gpus / A_MACHINE), min(gpus, A_MACHINE)
    seconds = 2 * (inside - 1) / inside * size / INSIDE + NEAR * math.log2(inside)
    # Each GPU of a machine sends its eighth to the other machines, over a link of its own.
    between = 2 * (machines - 1) / machines * size / inside / BETWEEN
    return seconds + between + FAR * math.log2(machines)


def expected(step: Cost, batch: int, gpus: int) -> Expected:
    """A step of `batch` images shared by `gpus`."""
    compute = max(LAUNCHES, step.flop * batch / gpus / FLOPS)
    if gpus == 1:
        return Expected(compute, 0.0)
    sent = sum(seconds_to_reduce(size, gpus) for size in step.gradients)
    return Expected(compute, sent + step.moments * seconds_to_reduce(0, gpus))


def tables() -> str:
    """One for each preset, in Markdown: the preset's batch, and one that grows with the GPUs."""
    parts = []
    for preset in PRESETS:
        step, batch = cost(preset), presets.load(preset).optim.batch_size
        lines = [
            f"{preset}: {step.flop / 1e9:,.1f} GFLOP an image;"
            f" {sum(step.gradients) / 1e6:,.0f} MB of gradients a step;"
            f" {step.moments} exchanges of moments",
            "",
            f"| GPUs | batch {batch} in all: step, ms | sending, ms | images/s |"
            f" {batch} a GPU: step, ms | efficiency |",
            "|---|---|---|---|---|---|",
        ]
        alone = expected(step, batch, 1).compute
        for gpus in GPUS:
            cells = ["-"] * 3
            if batch % gpus == 0:
                fixed = expected(step, batch, gpus)
                total = fixed.compute + fixed.communicate
                cells = [f"{1e3 * total:.1f}", f"{1e3 * fixed.communicate:.1f}"]
                cells.append(f"{batch / total:,.0f}")
            grown = expected(step, batch * gpus, gpus)
            grown_ms = 1e3 * (grown.compute + grown.communicate)
            lines.append(
                f"| {gpus} | {' | '.join(cells)} | {grown_ms:.1f}"
                f" | {100 * grown.efficiency(alone):.0f} % |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
