"""Train, resume, sample and look inside self-attention GANs.

From Python:

    model = ganctl.load("runs/faces32-001")          # or a checkpoint file
    images = model.draw(range(16))                   # (16, 3, 32, 32) in [-1, 1]

    session = ganctl.new(ganctl.preset("faces32"))   # as `ganctl train`, but nothing is written
    metrics = session.step()                         # metrics.d.loss, metrics.g.loss, ...

Importing ganctl imports no torch; the first use of one of these names does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ganctl.sampling.model import Model, load
    from ganctl.session import Session, new
    from ganctl.settings.presets import load as preset

__version__ = "0.1.0"
__all__ = ["Model", "Session", "load", "new", "preset"]

_PLACES = {
    "Model": ("ganctl.sampling.model", "Model"),
    "Session": ("ganctl.session", "Session"),
    "load": ("ganctl.sampling.model", "load"),
    "new": ("ganctl.session", "new"),
    "preset": ("ganctl.settings.presets", "load"),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'ganctl' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
