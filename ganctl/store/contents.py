"""What a checkpoint says of itself and holds: all that samplers and inspectors need of a run.

Nothing here is about training: optimizers and counters are `training/state.py`'s.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ganctl.errors import CheckpointError
from ganctl.models import Discriminator, Generator, build_networks, least_weights
from ganctl.settings.config import Config, dotted
from ganctl.store import checkpoint
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


class Description(Part):
    """What a checkpoint says of itself."""

    run: RunIdentity
    step: Annotated[int, Field(ge=0, lt=2**62)]
    config: Config
    exactness: dict[str, str | int]  # what its bytes depend on besides configuration and images
    data: DataIdentity
    streams: Annotated[int, Field(ge=1)] = 1  # which random streams the run drew from so far


class Networks(NamedTuple):
    """The networks of a checkpoint, named as its sections; on the CPU, in eval mode."""

    generator: Generator
    discriminator: Discriminator
    generator_ema: Generator


def described(metadata: Metadata, path: Path) -> Description:
    """The metadata of `path` with its types and limits checked; the configuration as in a file."""
    try:
        return Description.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        name = dotted(first["loc"])
        raise CheckpointError(f"{path}: its metadata is bad at {name}: {first['msg']}") from None


def load_networks(path: Path) -> tuple[Networks, Description]:
    """The networks in a checkpoint, and its metadata; CheckpointError says what is wrong."""
    payload, metadata = checkpoint.read(path)
    description = described(metadata, path)
    config = description.config
    check_size(payload, description, path)
    generator, discriminator = build_networks(
        config.model, config.data, torch.Generator(), len(description.data.classes)
    )
    networks = Networks(generator, discriminator, copy.deepcopy(generator))
    for name, network in networks._asdict().items():
        load_network(network, payload.get(name), f"{path}: {name}")
        network.eval().requires_grad_(False)
    return networks, description


def check_size(payload: Payload, saved: Description, path: Path) -> None:
    """CheckpointError if the networks of `saved` cannot be in `payload`, so none must be made."""
    model, n_classes = saved.config.model, len(saved.data.classes)
    if model.conditional and n_classes == 0:
        raise CheckpointError(f"{path}: its model is conditional, but it names no classes")
    expected = least_weights(model, saved.config.data, n_classes)
    for name, least in zip(("generator", "discriminator"), expected, strict=True):
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
