"""`ganctl train --dry-run`: what a run would be, measured on real steps; nothing is written."""

import math
import statistics
import time
from typing import Any

from ganctl import session
from ganctl.cli import show
from ganctl.data import held_out
from ganctl.data.images import Images
from ganctl.data.labels import labels_of
from ganctl.data.packing import decode_some
from ganctl.data.sources import open_source
from ganctl.runtime import fingerprint, peak_memory, synchronize
from ganctl.session import Session
from ganctl.settings.config import Config, to_yaml
from ganctl.store.contents import tensors_in
from ganctl.training import oddities, opening
from ganctl.training.memory import memory_for_images

SPELL = 1.0  # seconds that are timed together
LEAST_SPELLS, MOST_SECONDS = 8, 40  # of the measurement
SETTLED = 0.03  # standard error, as a share, at which the speed is known


def print_dry_run(
    config: Config, device_name: str, remark: str | None, *, as_json: bool, verbose: bool
) -> None:
    """Load images, build the networks, measure some steps, and report; `verbose`: settings too.

    `remark`, if there is one, is said of the measurement.
    """
    report = measure(config, device_name)
    if remark:
        show.note(remark)
    if as_json:
        show.result_json(report)
        return
    settled = Config.model_validate(report["config"])
    spread = report["spread_of_speed"]
    noise = f" (give or take {spread:.0%}: other programs?)" if spread > SETTLED else ""
    for name, value in {
        "images": f"{report['images']:,} from {settled.data.source}",
        "parameters": f"G {report['g_parameters']:,}, D {report['d_parameters']:,}",
        "device": f"{report['device']}, {settled.train.precision}",
        "peak memory": f"{report['peak_memory_bytes'] / 1e9:.2f} GB",
        "speed": f"{report['images_per_second']:,} images/s{noise}",
        "time to finish": show.duration(report["seconds_to_finish"]),
        "disk": f"{report['disk_bytes'] / 1e6:,.0f} MB for {report['checkpoints_kept']} saves",
    }.items():
        show.result(f"{name:16}{value}")
    speed, count = report["images_per_second"], report["images"]
    tried_on_others = held_out.possible(settled.data.held_out, count)
    often = oddities.seen_often(speed, count, tried_on_others)
    if often and not settled.augment.policy:  # else what it says is done already
        show.note(f"warning: {often}")
    if verbose:
        show.result_text("\n" + to_yaml(settled))


def measure(config: Config, device_name: str) -> dict[str, Any]:
    """The report as plain values; sizes in bytes."""
    data, optim = config.data, config.optim
    source = open_source(data.source, data.resolution)
    names = opening.classes_for(config, source)
    with memory_for_images():
        packed = decode_some(source, data.resolution, data.crop, optim.batch_size)
    images = Images(packed, labels_of(source, packed, names))
    for oddity in (
        *oddities.few(len(source), config),
        *oddities.other_pictures(source),
        *oddities.sizes(source, config),
    ):
        show.note(f"warning: {oddity}")
    tried = session.new(config, device_name, images)
    seconds, spread = _seconds_a_step(tried)
    payload = tried.state.payload()
    checkpoint_bytes = sum(tensor.nbytes for _, tensor in tensors_in(payload))
    every = tried.config.train
    milestones = every.steps // every.keep_every if every.keep_every else 0
    kept = every.keep_checkpoints + milestones
    return {
        "config": tried.config.model_dump(),
        "device": fingerprint(tried.device)["device"],
        "images": len(source),
        "g_parameters": sum(p.numel() for p in tried.state.generator.parameters()),
        "d_parameters": sum(p.numel() for p in tried.state.discriminator.parameters()),
        "peak_memory_bytes": peak_memory(tried.device),
        "images_per_second": round(optim.batch_size * optim.d_steps_per_g / seconds, 1),
        "spread_of_speed": round(spread, 3),
        "seconds_to_finish": round(every.steps * seconds),
        "checkpoints_kept": kept,
        "disk_bytes": checkpoint_bytes * kept,
    }


def _seconds_a_step(tried: Session) -> tuple[float, float]:
    """The median over spells of a second or a step, and its standard error as a share of it.

    On a machine with other programs spells differ, and more of them are taken.
    """
    tried.step()  # warm-up
    synchronize(tried.device)
    spells: list[float] = []
    begun_at = time.perf_counter()
    while True:
        steps, started_at = 0, time.perf_counter()
        while not steps or time.perf_counter() - started_at < SPELL:
            tried.step()
            synchronize(tried.device)
            steps += 1
        spells.append((time.perf_counter() - started_at) / steps)
        median = statistics.median(spells)
        deviation = statistics.mean(abs(each - median) for each in spells)
        # Of normal values sqrt(pi / 2) mean deviations are a standard deviation, and as many times
        # that by sqrt(n) is the standard error of the median.
        error = math.pi / 2 * deviation / (median * math.sqrt(len(spells)))
        settled = len(spells) >= LEAST_SPELLS and error <= SETTLED
        if settled or (len(spells) > 1 and time.perf_counter() - begun_at > MOST_SECONDS):
            return median, error
