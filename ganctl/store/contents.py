"""What a checkpoint says of itself and holds: all that samplers and inspectors need of a run.

Nothing here is about training: optimizers and counters are `training/state.py`'s.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ganctl.errors import CheckpointError
from ganctl.models import Discriminator, Generator, build_networks, least_weights
from ganctl.settings.config import Config, dotted
from ganctl.store import checkpoint, safetensors
from ganctl.store.checkpoint import Metadata, Payload


class Part(BaseModel):
    """A part of the metadata; newer versions may add to it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class RunIdentity(Part):
    """Which run a checkpoint comes from."""

    id: str
    name: str


class DataIdentity(Part):
    """Which images a run was trained on."""

    source: str
    n: int
    fingerprint: str
    classes: list[str] = []  # their names, for a conditional model
    labels: str = ""  # the fingerprint of the images' classes
    held_out: list[int] = []  # the numbers of the images that it is never trained on


class Description(Part):
    """What a checkpoint says of itself."""

    run: RunIdentity
    step: Annotated[int, Field(ge=0, lt=2**62)]
    config: Config
    exactness: dict[str, str | int]  # what its bytes depend on besides configuration and images
    data: DataIdentity
    streams: Annotated[int, Field(ge=1)] = 1  # which random streams the run drew from so far


Network = TypeVar("Network", bound=nn.Module)

KINDS = {  # the sections of a checkpoint that are networks
    "generator": "live generator",
    "generator_ema": "averaged generator",
    "discriminator": "discriminator",
}
EXPORTED, EXPORT_VERSION = "ganctl", 1  # the text of an exported file that describes it


class Networks:
    """The networks of a file; on the CPU, in eval mode, without gradients.

    A checkpoint has all three, an exported file one: CheckpointError at the others.
    """

    def __init__(self, path: Path, found: Mapping[str, nn.Module]) -> None:
        """`found` has keys of KINDS."""
        self.path, self._found = path, found

    @property
    def generator(self) -> Generator:
        """The live one."""
        return self._get("generator", Generator)

    @property
    def generator_ema(self) -> Generator:
        """The average of the live one."""
        return self._get("generator_ema", Generator)

    @property
    def discriminator(self) -> Discriminator:
        """It has no average."""
        return self._get("discriminator", Discriminator)

    def has(self, name: str) -> bool:
        """Whether there is a network `name`, a key of KINDS."""
        return name in self._found

    def those_of(self, names: Sequence[str]) -> list[str]:
        """Those of `names`, "g" or "d", that are there; CheckpointError if none is."""
        there = {"d" if name == "discriminator" else "g" for name in self._found}
        if not (found := [name for name in names if name in there]):
            self._get("discriminator" if "g" not in names else "generator_ema", nn.Module)
        return found

    def _get(self, name: str, kind: type[Network]) -> Network:
        network = self._found.get(name)
        if network is None:
            held = KINDS[next(iter(self._found))]
            hint = "--raw takes the live generator" if held == "live generator" else None
            raise CheckpointError(f"{self.path} has no {KINDS[name]}: it holds the {held}", hint)
        assert isinstance(network, kind)
        return network


def described(metadata: Metadata, path: Path) -> Description:
    """The metadata of `path` with its types and limits checked; the configuration as in a file."""
    try:
        return Description.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        name = dotted(first["loc"])
        raise CheckpointError(f"{path}: its metadata is bad at {name}: {first['msg']}") from None


def load_networks(path: Path) -> tuple[Networks, Description]:
    """The networks in a checkpoint or an exported file, and its metadata.

    CheckpointError says what is wrong with it.
    """
    if safetensors.looks_like_one(path):
        return _load_exported(path)
    payload, metadata = checkpoint.read(path)
    description = described(metadata, path)
    check_size(payload, description, path)
    return _filled(payload, description, path, list(KINDS)), description


def is_ours(path: Path) -> bool:
    """Whether ganctl wrote `path`, though its last bytes may be lost; CheckpointError if unread."""
    if safetensors.looks_like_one(path):
        return EXPORTED in safetensors.texts(path)
    return checkpoint.is_ours(path)


def save_exported(path: Path, network: nn.Module, name: str, saved: Description) -> None:
    """Replace `path` by a safetensors file of one network, `name` being a key of KINDS.

    All that `load_networks` needs is in it: `saved`, and the weights as a checkpoint has them.
    """
    document = {"version": EXPORT_VERSION, "network": name, **saved.model_dump()}
    texts = {"format": "pt", EXPORTED: json.dumps(document)}
    tensors = {key: value.cpu() for key, value in network.state_dict().items()}
    safetensors.write(path, tensors, texts)


def _load_exported(path: Path) -> tuple[Networks, Description]:
    tensors, texts = safetensors.read(path)
    try:
        document = json.loads(texts[EXPORTED])
        name, version = document["network"], document["version"]
    except (KeyError, ValueError, TypeError, RecursionError):
        hint = "`ganctl inspect-sn` looks at the weights of any safetensors file"
        raise CheckpointError(f"{path} was not exported by ganctl", hint) from None
    if version != EXPORT_VERSION or name not in KINDS:
        hint = "update ganctl: `git pull` in its checkout, then `pip install .`"
        raise CheckpointError(f"{path} was exported by a newer ganctl", hint)
    saved = described(document, path)
    check_size({name: tensors}, saved, path, [name])
    return _filled({name: tensors}, saved, path, [name]), saved


def _filled(payload: Payload, saved: Description, path: Path, names: Sequence[str]) -> Networks:
    """The networks `names` of `saved` with the weights in `payload`."""
    generator, discriminator = build_networks(
        saved.config.model, saved.config.data, torch.Generator(), len(saved.data.classes)
    )
    made: dict[str, nn.Module] = {
        "generator": generator,
        "discriminator": discriminator,
        "generator_ema": copy.deepcopy(generator),
    }
    for name in names:
        load_network(made[name], payload.get(name), f"{path}: {name}")
        made[name].eval().requires_grad_(False)
    return Networks(path, {name: made[name] for name in names})


def check_size(
    payload: Payload,
    saved: Description,
    path: Path,
    names: Sequence[str] = ("generator", "discriminator"),
) -> None:
    """CheckpointError if the networks of `saved` cannot be in `payload`, so none must be made."""
    model, n_classes = saved.config.model, len(saved.data.classes)
    if model.conditional and n_classes == 0:
        raise CheckpointError(f"{path}: its model is conditional, but it names no classes")
    g_least, d_least = least_weights(model, saved.config.data, n_classes)
    for name in names:
        least = d_least if name == "discriminator" else g_least
        stored = sum(tensor.numel() for _, tensor in tensors_in(payload.get(name)))
        if stored < least:
            raise CheckpointError(f"{path}: {name} has {stored:,} values, not {least:,} or more")


def load_network(network: nn.Module, section: Any, where: str) -> None:
    """Fill `network` after checking that names, shapes and types agree and all is finite."""
    expected = network.state_dict()
    if not isinstance(section, dict) or set(section) != set(expected):
        odd = sorted(set(section if isinstance(section, dict) else ()) ^ set(expected), key=str)
        raise CheckpointError(f"{where}: {odd[0] if odd else 'all'} is missing or unexpected")
    for name, tensor in expected.items():
        given = section[name]
        if not isinstance(given, Tensor) or (given.shape, given.dtype) != (
            tensor.shape,
            tensor.dtype,
        ):
            kind = (
                f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else "no tensor"
            )
            raise CheckpointError(
                f"{where}.{name} is {kind}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
        if given.is_floating_point() and not given.isfinite().all():
            raise CheckpointError(f"{where}.{name} has values that are not finite")
    network.load_state_dict(section)


def first_bad_tensor(payload: Payload) -> str | None:
    """The name of a tensor in `payload` with a value that is not finite, if there is one."""
    for name, tensor in tensors_in(payload):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return None


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts, with dotted names."""
    if isinstance(value, Tensor):
        yield name.removeprefix("."), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(item, f"{name}.{key}")
