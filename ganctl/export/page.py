"""A page in which the generator itself draws, in any browser and without a network.

The network is a few kinds of operations over plain arrays, so a few hundred lines of script carry
it out; a general runtime would add 8 MB to the file and say nothing of where attention looks. The
weights are stored in half precision, unless that moves an image by more than a grey level.
"""

import base64
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ganctl.errors import GanctlError
from ganctl.export.execution import run
from ganctl.export.network import Exported
from ganctl.export.program import Program, program_of
from ganctl.models import fold
from ganctl.sampling.draw import latents
from ganctl.webpage import data_block, page, template, text

COMPARED = 8  # images
LEVEL = 1 / 127.5  # one grey level, in [-1, 1]
SCRIPTS = ("page_latents.js", "page_network.js", "page.js")


class Page(NamedTuple):
    """A page, and how it was made."""

    document: str
    half: bool  # whether weights are stored in half precision
    largest: float  # difference of a value of an image from ganctl's, in grey levels


def page_of(exported: Exported) -> Page:
    """The page of a generator; GanctlError if its images would differ by more than a grey level."""
    program = program_of(exported.generator)
    for precision in (torch.float16, torch.float32):
        largest = _difference(exported, program, precision)
        if largest <= 1:
            half = precision == torch.float16
            return Page(_document(exported, program, half), half, largest)
    what = f"its images would be up to {largest:.3g} grey levels from ganctl's"
    raise GanctlError(f"the page was not made: {what}", "please report it")


def _difference(exported: Exported, program: Program, precision: torch.dtype) -> float:
    """How far the program's images are from ganctl's, in grey levels."""
    generator = exported.generator
    z = latents(generator.latent_dim, range(COMPARED), None)
    inputs, shares = [z], None
    if exported.classes:
        labels = torch.arange(COMPARED) % len(exported.classes)
        inputs.append(labels)
        shares = one_hot(labels, len(exported.classes)).float()
    with torch.no_grad():
        expected: Tensor = fold(generator)(*inputs)
    return ((run(program, z, shares, precision) - expected).abs().max() / LEVEL).item()


def _document(exported: Exported, program: Program, half: bool) -> str:
    saved = exported.saved
    model = {
        "operations": program.operations,
        "latent": exported.generator.latent_dim,
        "resolution": saved.config.data.resolution,
        "classes": exported.classes,
        "half": half,
    }
    matrices = torch.cat(program.matrices).to(torch.float16 if half else torch.float32)
    body = "\n".join(
        [
            _header(exported),
            f"<main>{_stage(program)}{_controls(exported)}</main>",
            data_block("model", model),
            _numbers("matrices", matrices),
            _numbers("vectors", torch.cat(program.vectors)),
        ]
    )
    script = "\n".join(template("ganctl.export", name) for name in SCRIPTS)
    return page(saved.run.name, body, template("ganctl.export", "page.css"), script)


def _numbers(name: str, values: Tensor) -> str:
    content = base64.b64encode(values.numpy().astype(values.numpy().dtype.newbyteorder("<")).data)
    return f"<script type='application/octet-stream' id='{name}'>{content.decode()}</script>"


def _header(exported: Exported) -> str:
    saved = exported.saved
    parameters = sum(each.numel() for each in exported.generator.parameters())
    side = saved.config.data.resolution
    what = (
        f"A network of {parameters / 1e6:.2f} million parameters, trained with ganctl on"
        f" {saved.data.n:,} images of {saved.data.source} to step {saved.step:,}, draws"
        f" {side} x {side} images here in this page. Nothing is sent anywhere."
    )
    return f"<header><h1>{text(saved.run.name)}</h1><p class='faint'>{text(what)}</p></header>"


def _stage(program: Program) -> str:
    """The image, and above it where its points look."""
    attention = any(operation["kind"] == "attention" for operation in program.operations)
    hint = "Point at the image to see where that point looks." if attention else ""
    return (
        "<div><div class='stage'><canvas id='image' role='img' tabindex='0'></canvas>"
        "<canvas id='heat' width='512' height='512' aria-hidden='true'></canvas></div>"
        f"<p class='faint'>drawn in <output id='took'></output>. {hint}</p>"
        "<p class='faint' id='looks' aria-live='polite'></p></div>"
    )


def _controls(exported: Exported) -> str:
    classes = "".join(
        f"<option value='{number}'>{text(name)}</option>"
        for number, name in enumerate(exported.classes)
    )
    first = _choice("class", "class", classes) if classes else ""
    second = _choice("class-2", "class", classes) if classes else ""
    blocks = _blocks(exported)
    return f"""<form autocomplete="off">
<fieldset><legend>image</legend>
<label>seed <input type="text" id="seed" inputmode="numeric" value="0"></label>{first}
<label>truncation <span><input type="checkbox" id="cut" aria-label="cut off">
<output id="cut-value">off</output></span></label>
<label>cut off at
<input type="range" id="truncation" min="0.1" max="2" step="0.05" value="1"></label>
{blocks}<button type="button" id="another">another seed</button>
<button type="button" id="save">save as PNG</button>
<button type="button" id="more">sixteen seeds</button></fieldset>
<fieldset><legend>the way to another</legend>
<label>seed <input type="text" id="seed-2" inputmode="numeric" value="1"></label>{second}
<label>share <input type="range" id="share" min="0" max="1" step="0.01" value="0"></label>
</fieldset>
<div id="grid-place" hidden><canvas id="grid" role="img" aria-label="A grid of images"></canvas>
<button type="button" id="save-grid">save the grid as PNG</button></div></form>"""


def _choice(name: str, label: str, options: str) -> str:
    return f"<label>{label} <select id='{name}'>{options}</select></label>"


def _blocks(exported: Exported) -> str:
    """Which attention block is shown, if there are several."""
    sizes = sorted(exported.saved.config.model.attention.at)
    if len(sizes) < 2:
        return ""
    options = (f"<option value='{n}'>at {s} x {s}</option>" for n, s in enumerate(sizes))
    return _choice("block", "attention", "".join(options))
