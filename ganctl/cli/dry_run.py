"""`ganctl train --dry-run`: what a run would be, measured on real steps; nothing is written."""

import time
from typing import Any

from ganctl.cli import show
from ganctl.cli.training import load_labels, make_batches, out_of_memory_explained, settle
from ganctl.data.packing import decode_some
from ganctl.data.sources import open_source
from ganctl.runtime import choose_device, fingerprint, peak_memory, prepare, synchronize
from ganctl.settings.config import Config, to_yaml
from ganctl.training import state
from ganctl.training.train import train_step


def dry_run(config: Config, device_name: str, *, as_json: bool) -> None:
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
    device = choose_device(device_name)
    prepare(device)
    config = settle(config, device)
    data, optim = config.data, config.optim
    source = open_source(data.source, data.resolution)
    packed = decode_some(source, data.resolution, data.crop, optim.batch_size)
    labels = load_labels(source, packed, config)
    batches = make_batches(packed, labels, config, device)
    trained = state.create(config, device, len(labels.classes))
    with out_of_memory_explained(config):
        train_step(trained, batches, config)  # warm-up
        synchronize(device)
        started_at = time.perf_counter()
        train_step(trained, batches, config)
        synchronize(device)
    seconds = time.perf_counter() - started_at
    payload = trained.payload()
    checkpoint_bytes = sum(tensor.nbytes for _, tensor in state.tensors_in(payload))
    every = config.train
    milestones = every.steps // every.keep_every if every.keep_every else 0
    kept = every.keep_checkpoints + milestones
    return {
        "config": config.model_dump(),
        "device": fingerprint(device)["device"],
        "images": len(source),
        "g_parameters": sum(p.numel() for p in trained.generator.parameters()),
        "d_parameters": sum(p.numel() for p in trained.discriminator.parameters()),
        "peak_memory_bytes": peak_memory(device),
        "images_per_second": round(optim.batch_size * optim.d_steps_per_g / seconds, 1),
        "seconds_to_finish": round(config.train.steps * seconds),
        "checkpoints_kept": kept,
        "disk_bytes": checkpoint_bytes * kept,
    }
