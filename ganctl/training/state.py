"""Everything a run consists of between two steps, and how it goes into a checkpoint and back."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ganctl
from ganctl import distributed
from ganctl.distributed import first_does
from ganctl.errors import CheckpointError
from ganctl.models import Discriminator, Generator, build_networks, swaps
from ganctl.models.swaps import Swaps
from ganctl.runtime import fingerprint, random_stream
from ganctl.settings.config import Config
from ganctl.store.checkpoint import Metadata, Payload
from ganctl.store.contents import load_network
from ganctl.training import ema

FUSED_ADAM = ("cuda", "cpu")  # device types with a one-kernel Adam
STREAMS = 2  # which random streams a run draws from; one more whenever the same seed draws anew

MEASURED = 10  # that each step measures: the fields of metrics.DMetrics and GMetrics
ADDED = ("measured",)  # what older checkpoints lack: a run resumed from one measures from there on


@dataclass
class TrainState:
    """Its fields are exactly what a checkpoint holds; randomness is a function of step, rollbacks.

    A run has the last ones only if its settings ask for them; older checkpoints have none of them.
    """

    generator: Generator
    discriminator: Discriminator
    generator_ema: Generator
    g_optimizer: torch.optim.Adam
    d_optimizer: torch.optim.Adam
    g_scaler: torch.amp.GradScaler
    d_scaler: torch.amp.GradScaler
    step: int  # finished updates of G
    rollbacks: int  # times the run diverged and went back; each time with other latents
    measured: Tensor  # (MEASURED + 1,): sums over the steps since the last row, and their number
    augment_p: Tensor | None = None  # (): adaptive augmentation's probability
    score_averages: Tensor | None = None  # (2,): LeCam's, of D(real) and of D(fake)

    def payload(self) -> Payload:
        """One section for each field: plain values and tensors on the CPU."""
        ema.ready(self.generator_ema, self.generator)
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def load(self, payload: Payload, path: Path) -> None:
        """Take over a payload; CheckpointError names the first thing that does not fit."""
        for field in fields(self):
            if field.name not in payload and field.name in ADDED:
                continue
            if field.name not in payload and getattr(self, field.name) is not None:
                raise CheckpointError(f"{path}: {field.name} is missing")
            count = payload.get(field.name)
            if isinstance(getattr(self, field.name), int) and (type(count) is not int or count < 0):
                raise CheckpointError(f"{path}: {field.name} is {count!r}, not a count")
        for field in fields(self):
            part, section = getattr(self, field.name), payload.get(field.name)
            if section is None and field.name in ADDED:
                part.zero_()
            elif isinstance(part, nn.Module):
                load_network(part, section, f"{path}: {field.name}")
            elif isinstance(part, torch.optim.Adam):
                scaled = self.g_scaler.is_enabled()  # then all updates so far may have been skipped
                begun = payload["step"] != 0 and not scaled
                _load_moments(part, section, begun, f"{path}: {field.name}")
            elif isinstance(part, torch.amp.GradScaler):
                _load_scale(part, section, f"{path}: {field.name}")
            elif isinstance(part, int):
                setattr(self, field.name, section)
            else:
                _load_numbers(part, section, f"{path}: {field.name}")


def create(
    config: Config, device: torch.device, n_classes: int = 0, swapped: Swaps | None = None
) -> TrainState:
    """The state before the first step: initial weights are a function of the seed alone.

    A conditional model needs `n_classes`. `swapped`: what the networks are to compute with, instead
    of what pays here.
    """
    stream = random_stream(config.train.seed, "init")
    networks = build_networks(config.model, config.data, stream, n_classes)
    generator, discriminator = networks[0].to(device), networks[1].to(device)
    precision = config.train.precision
    # The first process chooses, as what is faster is measured, and all must compute alike.
    used = first_does(lambda: list(swapped or swaps.choose(device, precision, *networks)))
    swaps.apply(Swaps(*used), *networks)
    scaled = precision == "fp16"
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        generator_ema=ema.average_of(generator),
        g_optimizer=_adam(generator, config.optim.g_lr, config, device),
        d_optimizer=_adam(discriminator, config.optim.d_lr, config, device),
        g_scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        d_scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        step=0,
        rollbacks=0,
        measured=torch.zeros(MEASURED + 1, device=device),
        augment_p=torch.zeros((), device=device) if config.augment.adaptive() else None,
        score_averages=torch.zeros(2, device=device) if config.loss.lecam > 0 else None,
    )


def exactness(state: TrainState, device: torch.device) -> dict[str, str | int]:
    """What the bytes of a result depend on besides configuration and images."""
    used = swaps.found_in(state.generator, state.discriminator)
    return {**fingerprint(device), **used._asdict(), "processes": distributed.size()}


def describe(state: TrainState, config: Config, device: torch.device, data: Metadata) -> Metadata:
    """What a checkpoint says of itself; `data` identifies the images."""
    return {
        "ganctl": ganctl.__version__,
        "step": state.step,
        "images": state.step * config.optim.d_steps_per_g * config.optim.batch_size,
        "config": config.model_dump(),
        "exactness": exactness(state, device),
        "streams": STREAMS,
        "data": data,
    }


def _adam(network: nn.Module, lr: float, config: Config, device: torch.device) -> torch.optim.Adam:
    beta1, beta2 = config.optim.betas
    return torch.optim.Adam(
        network.parameters(),
        lr=lr,
        betas=(beta1, beta2),
        eps=config.optim.adam_eps,
        fused=device.type in FUSED_ADAM,
    )


def _load_moments(optimizer: torch.optim.Adam, section: Any, begun: bool, where: str) -> None:
    """Take over Adam's moments, checked; rates, betas and eps stay the configuration's.

    `begun` says that there were updates, so that moments must be there.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = list(range(len(weights)))
    try:
        moments, (group,) = section["state"], section["param_groups"]
        if group["params"] != numbers:
            raise CheckpointError(f"{where} does not fit the network")
        if sorted(moments) != numbers and (moments or begun):
            raise CheckpointError(
                f"{where} has the moments of {len(moments)} of {len(weights)} weights"
            )
        for number, of_weight in moments.items():
            _check_moments(of_weight, weights[number], number, where)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{where} is not the state of an Adam optimizer") from error
    own_groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": own_groups})


def _check_moments(moments: Any, weight: Tensor, number: int, where: str) -> None:
    """Adam's own loading checks neither shapes nor values."""
    shapes = {"step": torch.Size(), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
    if set(moments) != set(shapes):
        raise CheckpointError(f"{where}: the moments of parameter {number} are not Adam's")
    for name, shape in shapes.items():
        moment = moments[name]
        fits = moment.shape == shape and moment.is_floating_point() and moment.isfinite().all()
        if not fits or (name != "exp_avg" and (moment < 0).any()):
            raise CheckpointError(f"{where}: {name} of parameter {number} does not fit")


def _load_scale(scaler: torch.amp.GradScaler, section: Any, where: str) -> None:
    """Take over the scale of fp16's gradients; how it grows and falls stays as it is here."""
    if not scaler.is_enabled():
        return  # the run's precision is fp32 or bf16, which needs none
    try:
        scale, good_steps = section["scale"], section["_growth_tracker"]
        if not (0 < scale < math.inf) or type(good_steps) is not int or good_steps < 0:
            raise CheckpointError(f"{where}: {scale!r} is no scale for gradients")
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where} is not the state of a gradient scaler") from error
    scaler.load_state_dict(
        {**scaler.state_dict(), "scale": float(scale), "_growth_tracker": good_steps}
    )


def _load_numbers(own: Tensor | None, section: Any, where: str) -> None:
    """Fill a small tensor that a run has; or see that there is none, if it has none."""
    if own is None and section is not None:
        raise CheckpointError(f"{where} is there, but the run's settings ask for none")
    if own is None:
        return
    fits = isinstance(section, Tensor) and section.shape == own.shape and section.dtype == own.dtype
    if not fits or not section.isfinite().all():
        raise CheckpointError(f"{where} is not {tuple(own.shape)} finite numbers")
    own.copy_(section)


def _plain(part: Any) -> Any:
    """Modules and optimizers as nested dicts and lists of values and whole CPU tensors."""
    if hasattr(part, "state_dict"):
        part = part.state_dict()
    if isinstance(part, Tensor):
        return part.detach().cpu().contiguous().clone()
    if isinstance(part, dict):
        return {key: _plain(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_plain(value) for value in part]
    return part
