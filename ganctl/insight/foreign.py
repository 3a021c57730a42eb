"""The weights in any PyTorch state dictionary, with the u and v of spectral normalisation.

A file of torch.save is read by the store's reader, never by torch's: see `store/state_dicts.py`. Of
the safetensors format `store/safetensors.py` is the reader.
"""

import math
import os
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import normalize

from ganctl.errors import CheckpointError
from ganctl.insight.foreign_objects import Interpreter, WholeModuleError
from ganctl.store import archive, safetensors
from ganctl.store.archive import BadArchiveError, Sketch
from ganctl.store.checkpoint import DTYPES, MALFORMED, regular_file
from ganctl.store.state_dicts import OLD_TORCH, Loader, zip_loader

Style = Literal["parametrization", "old torch", "BigGAN", "mimicry", "weight_bar", "plain"]
ITERATING = {"BigGAN", "mimicry", "weight_bar"}  # that make a power iteration in eval mode as well

ZIP = b"PK\x03\x04"  # how files begin
MAX_NAME = 1000  # characters of a weight's name
MAX_WEIGHTS = 20_000
HINT = "what can be read is a file of torch.save(module.state_dict(), path)"


class ForeignWeight(NamedTuple):
    """The weight of one layer, and the vectors that its spectral norm is estimated with."""

    layer: str  # keys of outer dicts and the layer's name, joined by dots: "G.blocks.0.conv"
    weight: Tensor  # raw, as stored; (C_out, ...): its flatten(1) is the matrix that is normalised
    u: Tensor | None  # (C_out,); None without spectral normalisation
    v: Tensor | None  # (the rest,); None also where none is stored
    style: Style


class _Naming(NamedTuple):
    """How one kind of spectral normalisation names its tensors: a pattern, and what follows."""

    style: Style
    weight: re.Pattern[str]
    name: str  # the weight's own name
    u: str
    v: str | None


PARAMETRIZED = re.compile(r"(|.*\.)parametrizations\.(\w+)\.original")
NAMINGS = (
    _Naming("parametrization", PARAMETRIZED, r"\1\2",
            r"\1parametrizations.\2.0._u", r"\1parametrizations.\2.0._v"),  # torch's
    _Naming("parametrization", PARAMETRIZED, r"\1\2",
            r"\1parametrizations.\2.0.u", r"\1parametrizations.\2.0.v"),  # ganctl's
    _Naming("old torch", re.compile(r"(.+)_orig"), r"\1", r"\1_u", r"\1_v"),
    _Naming("BigGAN", re.compile(r"(|.*\.)weight"), r"\1weight", r"\1u0", None),
    _Naming("mimicry", re.compile(r"(|.*\.)weight"), r"\1weight", r"\1sn_u", None),
    _Naming("weight_bar", re.compile(r"(.+)_bar"), r"\1", r"\1_u", None),
)  # fmt: skip
PLAIN = re.compile(r"(|.*\.)weight")


def read(path: Path) -> list[ForeignWeight]:
    """All weights of two or more dimensions in `path`, in its order, tensors on the CPU.

    A weight is a tensor called `weight`, or a spectrally normalised one of any name; each dict in
    the file is looked through, an optimizer's excepted. Left out are tensors of other names, and
    with them the weights of other parametrizations, weight_norm's for example: what such a layer
    computes with is not in the file. CheckpointError says why a file cannot be used.
    """
    try:
        with regular_file(path) as file:
            if safetensors.looks_like_one(path):
                header = safetensors.header(file, path)
                return _some(_weights(header.tensors, "", _slices(file, header)), path)
            root = _root(file, path)
            archive.check_members(file, file.seek(0, os.SEEK_END), root)
            state = archive.sketch(file, root, Interpreter)
            if isinstance(state, list | tuple) and any(isinstance(each, dict) for each in state):
                hint = "torch.save one of them, or a dictionary of them, to another path"
                raise CheckpointError(f"{path} is a list of dictionaries, not one", hint)
            if isinstance(state, Sketch):
                hint = "torch.save a dictionary with it, {'layer.weight': tensor}, to another path"
                raise CheckpointError(f"{path} is one tensor, not a state dictionary", hint)
            with zipfile.ZipFile(file) as members:
                return _some(_weights(state, "", zip_loader(members)), path)
    except WholeModuleError as error:
        hint = "load it where its code is, and torch.save(module.state_dict(), other_path)"
        raise CheckpointError(
            f"{path} is a whole module ({error}), not a state dictionary", hint
        ) from error
    except BadArchiveError as error:
        raise CheckpointError(f"{path} cannot be loaded safely: it has {error}", HINT) from error
    except MALFORMED as error:
        raise CheckpointError(
            f"{path} is damaged or cut short: its archive is malformed", HINT
        ) from error


def _some(found: Iterator[ForeignWeight], path: Path) -> list[ForeignWeight]:
    """All that is found; CheckpointError if that is nothing, or cannot be used."""
    some = list(islice(found, MAX_WEIGHTS + 1))
    if len(some) > MAX_WEIGHTS:
        raise CheckpointError(f"{path} has more than {MAX_WEIGHTS:,} weights", HINT)
    weights = [_checked(weight, path) for weight in some]
    if not weights:
        raise CheckpointError(f"{path} has no weight of two or more dimensions", HINT)
    return weights


def sigma(weight: ForeignWeight) -> Tensor | None:
    """(): what the layer's raw weight is divided by in eval mode, in float64; None if by nothing.

    - u' W v from the stored u and v: torch's and ganctl's modules iterate in training only.
    - BigGAN-PyTorch stores u alone. Its eval mode makes one power iteration from it, v = W'u/|W'u|
      and u+ = W v/|W v|, forgets both, and divides by v'W'u+, which is |W v|. So do mimicry's
      networks (`sn_u`), and those with `weight_bar`, which keep the new u also in eval mode: of
      these it is the sigma of the first pass.
    - torch before 1.1 stored u alone, and in eval mode used the divided weight of the last training
      step. u' W v = |W'u| with the v of half an iteration is an estimate of that step's sigma.
    """
    if weight.u is None:
        return None
    matrix, u = weight.weight.flatten(1).double(), weight.u.double()
    if weight.v is not None:
        return u @ matrix @ weight.v.double()
    if weight.style in ITERATING:
        return (matrix @ normalize(matrix.mT @ u, dim=0)).norm()
    return (matrix.mT @ normalize(u, dim=0)).norm()


def _root(file: IO[bytes], path: Path) -> str:
    """The folder in the archive that has everything; its name is what the file was once called."""
    begin = file.read(len(OLD_TORCH))
    if begin == OLD_TORCH:
        hint = "load it with torch (weights_only=True) and torch.save it again"
        raise CheckpointError(f"{path} is of the format that PyTorch had before 1.6", hint)
    if not begin.startswith(ZIP):
        raise CheckpointError(f"{path} is no file of torch.save: it is no zip archive", HINT)
    with zipfile.ZipFile(file) as members:
        names = members.namelist()
        if names and all(name.endswith(".npy") for name in names):
            hint = (
                "torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, other_path)"
            )
            raise CheckpointError(f"{path} is a NumPy archive, not a file of torch.save", hint)
        root = names[0].partition("/")[0] + "/" if names else ""
        if root + "constants.pkl" in names:
            hint = "torch.save(torch.jit.load(path).state_dict(), other_path) makes one"
            raise CheckpointError(f"{path} is a TorchScript program, not a state dictionary", hint)
        order = root + "byteorder"
        if order in names and members.getinfo(order).file_size != len("little"):
            raise CheckpointError(f"{path} has its numbers in the byte order of another machine")
    return root


def _slices(file: IO[bytes], header: safetensors.Header) -> Loader:
    """From sketches to the tensors of a safetensors file."""
    return lambda sketch: safetensors.tensor(file, header, sketch.storage.member)


def _weights(state: object, prefix: str, load: Loader) -> Iterator[ForeignWeight]:
    """The weights in a dict and the dicts in it; `prefix` goes before their names."""
    if not isinstance(state, dict) or "param_groups" in state:  # an optimizer's has those
        return
    for key, value in state.items():
        name = f"{prefix}{key}"
        if len(name) > MAX_NAME:
            raise BadArchiveError("a longer name than any layer's")
        if not isinstance(value, Sketch):
            yield from _weights(value, f"{name}.", load)
        elif isinstance(key, str) and len(value.shape) > 1 and _has_numbers(value):
            yield from _weight(key, state, prefix, load)


def _weight(key: str, state: dict[Any, Any], prefix: str, load: Loader) -> Iterator[ForeignWeight]:
    """The weight called `key` in `state`, if that is one's name."""
    for style, pattern, name, u_name, v_name in NAMINGS:
        match = pattern.fullmatch(key)
        u = _vector(state, match.expand(u_name), load) if match else None
        if match and u is not None:
            v = _vector(state, match.expand(v_name), load) if v_name else None
            layer = (prefix + match.expand(name)).removesuffix(".weight")
            yield ForeignWeight(layer, load(state[key]), u, v, style)
            return
    # Beside `weight_orig`, torch before 1.1 also saved the divided weight.
    if PLAIN.fullmatch(key) and f"{key}_orig" not in state:
        layer = (prefix + key).removesuffix(".weight")
        yield ForeignWeight(layer, load(state[key]), None, None, "plain")


def _vector(state: dict[Any, Any], name: str, load: Loader) -> Tensor | None:
    """The tensor called `name` in one dimension, if there is one: BigGAN's u is (1, C_out)."""
    sketch = state.get(name)
    return load(sketch).flatten() if isinstance(sketch, Sketch) and _has_numbers(sketch) else None


def _checked(weight: ForeignWeight, path: Path) -> ForeignWeight:
    """`weight` with C_out first: torch normalises transposed convolutions, (C_in, C_out, ...), so.

    If both dimensions have u's length, the right one is where u and v are a singular pair: there
    the estimate is near the largest singular value, in the other it is that of random vectors.
    """
    tensors = [tensor for tensor in (weight.weight, weight.u, weight.v) if tensor is not None]
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise CheckpointError(f"{path}: layer {weight.layer} has values that are not finite")
    if weight.u is None:
        return weight
    layouts = [weight]
    if weight.style not in ITERATING:  # which take a weight as it is stored
        layouts.append(weight._replace(weight=weight.weight.transpose(0, 1)))
    fitting = [
        layout
        for layout in layouts
        if layout.weight.shape[0] == len(weight.u)
        and (weight.v is None or layout.weight[0].numel() == len(weight.v))
    ]
    if not fitting:
        shape = tuple(weight.weight.shape)
        raise CheckpointError(
            f"{path}: u or v of layer {weight.layer} does not fit its weight of shape {shape}"
        )
    return max(fitting, key=lambda layout: sigma(layout) or 0) if len(fitting) > 1 else fitting[0]


def _has_numbers(sketch: Sketch) -> bool:
    return DTYPES[sketch.storage.kind].is_floating_point and math.prod(sketch.shape) > 0
