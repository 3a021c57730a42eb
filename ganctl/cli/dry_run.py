"""`ganctl train --dry-run`: what a run would be, measured on real steps; nothing is written."""

import time
from typing import Any

from ganctl import session
from ganctl.cli import show
from ganctl.data.images import Images
from ganctl.data.packing import decode_some
from ganctl.data.sources import open_source
from ganctl.runtime import fingerprint, peak_memory, synchronize
from ganctl.settings.config import Config, to_yaml
from ganctl.store.contents import tensors_in
from ganctl.training.memory import memory_for_images


def print_dry_run(config: Config, device_name: str, *, as_json: bool) -> None:
    """Load images, build the networks, take a step to warm up and one to measure, and report."""
    report = measure(config, device_name)
    if as_json:
        show.result_json(report)
        return
    settled = Config.model_validate(report["config"])
    show.result_text(to_yaml(settled) + "\n")
    for name, value in {
        "images": f"{report['images']:,} from {settled.data.source}",
        "parameters": f"G {report['g_parameters']:,}, D {report['d_parameters']:,}",
        "device": f"{report['device']}, {settled.train.precision}",
        "peak memory": f"{report['peak_memory_bytes'] / 1e9:.2f} GB",
        "speed": f"{report['images_per_second']:,} images/s",
        "time to finish": show.duration(report["seconds_to_finish"]),
        "disk": f"{report['disk_bytes'] / 1e6:,.0f} MB for {report['checkpoints_kept']} saves",
    }.items():
        show.result(f"{name:16}{value}")


def measure(config: Config, device_name: str) -> dict[str, Any]:
    """The report as plain values; sizes in bytes."""
    data, optim = config.data, config.optim
    source = open_source(data.source, data.resolution)
    with memory_for_images():
        packed = decode_some(source, data.resolution, data.crop, optim.batch_size)
    images = Images(packed, session.labels_for(source, packed, config))
    tried = session.new(config, device_name, images)
    tried.step()  # warm-up
    synchronize(tried.device)
    started_at = time.perf_counter()
    tried.step()
    synchronize(tried.device)
    seconds = time.perf_counter() - started_at
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
        "seconds_to_finish": round(every.steps * seconds),
        "checkpoints_kept": kept,
        "disk_bytes": checkpoint_bytes * kept,
    }
