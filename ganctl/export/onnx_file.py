"""A network as an ONNX file, compared with ganctl's own the moment it is made.

Needs onnx and onnxscript, which are not installed by themselves; comparing needs onnxruntime.
"""

import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganctl.errors import ConfigError, GanctlError
from ganctl.export.network import Exported, plain
from ganctl.models import Generator
from ganctl.sampling.draw import latents
from ganctl.store.durable import replacing

OPSET = 18
COMPARED = 16  # inputs
ALLOWED = {"generator": 1 / 127.5, "discriminator": 1e-3}  # a grey level; of 1 + |score|
MOST_BYTES = 2**31 - 2**20  # of a protobuf message, less some for what is not weights


class Comparison(NamedTuple):
    """How far onnxruntime's results are from ganctl's."""

    inputs: int
    largest: float  # difference: of grey levels in [-1, 1], or of scores


def need_onnx() -> None:
    """Raise ConfigError if what makes the files is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        hint = "pip install onnx onnxscript onnxruntime"
        what = "--to onnx needs onnx and onnxscript, which are not installed"
        raise ConfigError(what, hint) from None


def write(path: Path, exported: Exported) -> Comparison | None:
    """Write `path`, with a batch of any size; None if there is no onnxruntime to compare with.

    A generator's inputs are `z` (B, latent_dim), standard normal or cut off, and `label` (B,) int64
    if it is conditional, its output `images` (B, 3, R, R) in [-1, 1]; a discriminator's are
    `images` and `label`, and `scores` (B,). GanctlError, and no file, if the results differ.
    """
    need_onnx()
    network = plain(exported)
    inputs = inputs_of(exported, 2)
    if sum(weight.nbytes for weight in network.parameters()) > MOST_BYTES:
        hint = "use --to safetensors"
        raise ConfigError("the network is too large for one ONNX file, which holds 2 GiB", hint)
    generates = isinstance(exported.network, Generator)
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(), replacing(path) as temporary:
        warnings.simplefilter("ignore")  # the exporter's, which are about itself
        program = _program(
            network,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=list(inputs),
            output_names=["images" if generates else "scores"],
            verbose=False,
        )
        program.model.metadata_props["ganctl"] = json.dumps(exported.saved.model_dump())
        program.save(temporary, external_data=False)
        return _compared(temporary, network, exported)


def _program(*arguments: Any, **options: Any) -> Any:
    """What torch.onnx.export makes; ConfigError if the packages do not fit torch or each other."""
    try:
        return torch.onnx.export(*arguments, **options)
    except (ImportError, AttributeError, torch.onnx.errors.OnnxExporterError) as error:
        names = ("torch", "onnx", "onnxscript", "onnx-ir")
        versions = ", ".join(f"{name} {version(name)}" for name in names)
        hint = "pip install --upgrade onnx onnxscript onnx-ir onnxruntime"
        raise ConfigError(f"these do not work together: {versions} ({error})", hint) from error


def inputs_of(exported: Exported, count: int) -> dict[str, Tensor]:
    """`count` inputs by their names: latents of seeds, or noise as images; classes in turn."""
    if isinstance(exported.network, Generator):
        inputs = {"z": latents(exported.network.latent_dim, range(count), None)}
    else:
        side = exported.saved.config.data.resolution
        noise = latents(3 * side**2, range(count), None)
        inputs = {"images": noise.clamp(-1, 1).unflatten(1, (3, side, side))}
    if exported.classes:
        inputs["label"] = torch.arange(count) % len(exported.classes)
    return inputs


def _compared(path: Path, network: nn.Module, exported: Exported) -> Comparison | None:
    """What onnxruntime makes of the file; GanctlError if it is not what `network` does."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = inputs_of(exported, COMPARED)
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    expected = network(*inputs.values())
    away = (torch.from_numpy(found) - expected).abs()
    kind = "generator" if isinstance(exported.network, Generator) else "discriminator"
    scale = 1 if kind == "generator" else 1 + expected.abs()
    if not bool((away <= ALLOWED[kind] * scale).all()):
        what = f"onnxruntime's results are up to {away.max().item():.3g} from ganctl's"
        raise GanctlError(f"the ONNX file was not kept: {what}", "please report it")
    return Comparison(COMPARED, away.max().item())
