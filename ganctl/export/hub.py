"""A generator as a folder for the Hugging Face Hub: weights, settings, a card, and examples."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from ganctl.export.network import EXACT, GRID_COLUMNS, Exported, examples
from ganctl.sampling.draw import draw
from ganctl.sampling.pictures import grid, save_png
from ganctl.store.contents import save_exported
from ganctl.store.journal import Row

WEIGHTS, SETTINGS, CARD, PICTURE = "model.safetensors", "config.json", "README.md", "samples.png"
LOADING = """\
import ganctl  # https://huggingface.co/docs/hub/models-downloading says how to get the file
from PIL import Image

model = ganctl.load("model.safetensors")
images = model.draw(range(16){labels})  # (16, 3, {side}, {side}) in [-1, 1], an image a seed
levels = ((images + 1) * 127.5).round().clamp(0, 255).byte()
for seed, image in enumerate(levels.permute(0, 2, 3, 1).numpy()):
    Image.fromarray(image).save(f"{{seed:03}}.png")
"""


def write(folder: Path, exported: Exported, scores: Sequence[Row]) -> None:
    """Write the folder, which is empty or not there; `scores` are those of the run, if any."""
    folder.mkdir(parents=True, exist_ok=True)
    save_exported(folder / WEIGHTS, exported.network, exported.name, exported.saved)
    document = {"library_name": "ganctl", "network": exported.name, **exported.saved.model_dump()}
    (folder / SETTINGS).write_text(json.dumps(document, indent=2) + "\n")
    points = examples(exported)
    drawn = draw(
        exported.generator, points, batch_size=16, device=torch.device("cpu"), precision=EXACT
    )
    images = np.concatenate([batch.images for batch in drawn])
    save_png(grid(images, GRID_COLUMNS), folder / PICTURE)
    (folder / CARD).write_text(card(exported, scores))


def card(exported: Exported, scores: Sequence[Row]) -> str:
    """The model card: what it is, of which images, how good, and how to load it."""
    saved, config = exported.saved, exported.saved.config
    kind = "conditional" if exported.classes else "unconditional"
    facts = {
        "library_name": "ganctl",
        "tags": ["gan", "self-attention", "spectral-normalization", kind],
        "pipeline_tag": "unconditional-image-generation",
        "license": "unknown",
    }
    front = yaml.safe_dump(facts, sort_keys=False).replace("unknown", "unknown  # fill in")
    side = config.data.resolution
    shown = f"{GRID_COLUMNS} images of each of the first classes" if exported.classes else "Images"
    attention = ", ".join(f"{size} x {size}" for size in config.model.attention.at) or "none"
    rows = [
        ("networks", f"{config.model.architecture}, width {config.model.width}, {kind}"),
        ("attention at", attention),
        ("trained on", f"{saved.data.source}, {saved.data.n:,} images, {side} x {side} pixels"),
        ("digest of the images", saved.data.fingerprint),
        ("steps", f"{saved.step:,}, batches of {config.optim.batch_size}"),
        ("loss", config.loss.kind),
        ("weights", "live" if exported.name == "generator" else "averaged"),
        *([("classes", ", ".join(exported.classes))] if exported.classes else []),
    ]
    table = "\n".join(f"| {name} | {_text(value)} |" for name, value in rows)
    labels = (
        f", labels=[i % {len(exported.classes)} for i in range(16)]" if exported.classes else ""
    )
    return f"""---
{front}---

# {_text(saved.run.name)}

A generator of {side} x {side} images, a self-attention GAN trained with ganctl.

![{shown} from seeds from 0 on](./{PICTURE})

| what | |
|---|---|
{table}

## Score

{_scores(scores)}

## Load it

```python
{LOADING.format(side=side, labels=labels)}```

## Licence and use

To be filled in: the licence of these weights, that of the images, and what they are not for.
"""


def _scores(rows: Sequence[Row]) -> str:
    """The figures of the newest row of a run that has scores."""
    if not rows:
        return "None was measured."
    names = [name for name in rows[-1] if name.startswith("score")]
    lines = [f"| {_text(name)} | {_text(rows[-1][name])} |" for name in names]
    step = f"Measured at step {rows[-1]['step']:,}, with ganctl's own protocol:"
    return "\n".join([step, "", "| figure | |", "|---|---|", *lines])


def _text(value: object) -> str:
    """Text that is nothing else in Markdown, whatever is in it: names are anybody's."""
    one_line = " ".join(str(value).split())
    kept = "".join(letter if letter.isprintable() else "?" for letter in one_line)
    escaped = html.escape(kept)
    return "".join(
        f"&#{ord(letter)};" if letter in "|`*_[]\\<>!#~" else letter for letter in escaped
    )
