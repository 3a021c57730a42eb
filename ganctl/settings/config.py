"""The typed settings of one experiment: what is computed. Where and how fast is the command line's.

Their sections are in sections.py; here they are put together, checked and explained.
"""

import re
from collections.abc import Mapping
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from ganctl.errors import ConfigError
from ganctl.settings.sections import (
    AugmentConfig,
    DataConfig,
    HealthConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScoreConfig,
    Section,
    TrainConfig,
)
from ganctl.settings.shipped import example
from ganctl.settings.strict_yaml import KeyPath, Value


class Config(Section):
    """One experiment."""

    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig
    train: TrainConfig
    health: HealthConfig = HealthConfig()
    score: ScoreConfig = ScoreConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Config":
        if self.data.attribute is not None and not self.model.conditional:
            raise ValueError("data.attribute needs a conditional model (model.conditional: true)")
        if self.data.resolution not in self.model.resolutions:
            raise ValueError(
                f"data.resolution is {self.data.resolution}, but {self.model.architecture} networks"
                f" are for {self.model.resolutions}"
            )
        possible = [size for size in (8, 16, 32, 64, 128) if size < self.data.resolution]
        if not set(self.model.attention.at) <= set(possible):
            raise ValueError(
                f"model.attention.at is {self.model.attention.at}, but at resolution"
                f" {self.data.resolution} attention can stand at {possible}"
            )
        if self.optim.batch_size % self.optim.grad_accumulation:
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} cannot be split into"
                f" optim.grad_accumulation {self.optim.grad_accumulation} equal parts"
            )
        return self

    @model_validator(mode="after")
    def _slicing_fits(self) -> "Config":
        if self.model.conditional and self.model.san:
            raise ValueError("model.san is for a model without classes (model.conditional: false)")
        return self

    @model_validator(mode="after")
    def _augmentation_fits(self) -> "Config":
        if self.augment.adaptive() and self.data.held_out == 0:
            raise ValueError(
                "augment.probability is adaptive, but data.held_out is 0: it is the images held out"
                " that tell how much is needed"
            )
        return self

    @model_validator(mode="after")
    def _rates_fit(self) -> "Config":
        if (decay := self.optim.lr_decay) is None:
            return self
        if not 0 <= decay[0] < decay[1]:
            raise ValueError(f"optim.lr_decay is {decay}, but it is a step and a later one")
        if self.train.steps > decay[1]:
            raise ValueError(
                f"train.steps is {self.train.steps}, but by optim.lr_decay the rates are zero from"
                f" step {decay[1]} on"
            )
        return self


def validate(settings: dict[str, Value], origins: dict[KeyPath, str]) -> Config:
    """The typed configuration; ConfigError names the first bad setting and where it was written."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise _explain(first["type"], first["loc"], first["msg"], first["input"], origins) from None


def replace(config: Config, changes: Mapping[str, Value]) -> Config:
    """`config` with dotted settings changed, for example {"train.steps": 100}, and validated."""
    settings = config.model_dump()
    for name, value in changes.items():
        section, key = name.split(".")
        settings[section][key] = value
    return validate(settings, {})


def to_yaml(config: Config) -> str:
    """The whole configuration as a file that `ganctl train --preset FILE` accepts."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def setting_names() -> list[str]:
    """All settings, dotted: data.source, ..., train.keep_checkpoints."""
    return _names(Config, "")


def value_of(config: Config, name: str) -> Value:
    """The value of a dotted setting, plain; None if it is one of the other architecture."""
    value: Value = config.model_dump()
    for part in name.split("."):
        assert isinstance(value, dict)
        value = value.get(part)
    return value


def architectures() -> dict[str, type[Section]]:
    """The settings of each architecture, by its name."""
    kinds = get_args(get_args(ModelConfig)[0])
    return {get_args(kind.model_fields["architecture"].annotation)[0]: kind for kind in kinds}


def dotted(loc: tuple[str | int, ...]) -> str:
    """The name of a setting where pydantic found something wrong; it puts in the architecture."""
    return ".".join(str(part) for part in _path(loc))


def _path(loc: tuple[str | int, ...]) -> KeyPath:
    """`loc` without the architecture."""
    inside_model = [False, *(part == "model" for part in loc)]
    return tuple(
        part
        for part, inside in zip(loc, inside_model[:-1], strict=True)
        if not (inside and part in architectures())
    )


def _names(section: type[BaseModel], prefix: str) -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, Section)]
        for part in sections:
            names += _names(part, f"{prefix}{name}.")
        if not sections:
            names.append(prefix + name)
    return list(dict.fromkeys(names))  # the architectures share most of theirs


def _having(name: str) -> list[str]:
    """The architectures that have the setting `name`."""
    return [known for known, kind in architectures().items() if name in _names(kind, "model.")]


def _explain(
    kind: str, loc: tuple[str | int, ...], reason: str, value: object, origins: dict[KeyPath, str]
) -> ConfigError:
    path = _path(loc)
    if kind.startswith("union_tag"):
        path = (*path, "architecture")
        reason = f"should be {' or '.join(repr(name) for name in architectures())}"
        value = value.get("architecture") if isinstance(value, dict) else value
    name = ".".join(str(part) for part in path)
    origin = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), "")
    prefix = f"{origin}: " if origin else ""
    having = _having(name)  # architectures, if it is a setting of any
    if kind == "extra_forbidden" and having and len(loc) > 1 and loc[1] not in having:
        others = " and ".join(having)
        hint = f"{others} networks have it: `ganctl presets` shows which a preset uses"
        return ConfigError(f"{prefix}{loc[1]} networks have no setting {name}", hint)
    if kind == "extra_forbidden":
        return ConfigError(f"{prefix}unknown setting {name}", hint=did_you_mean(name))
    if kind == "missing":
        hint = "a preset states every setting; start it with `extends: celeba64`"
        return ConfigError(f"{prefix}the setting {name} is missing", hint=hint)
    if kind == "string_too_short":
        return ConfigError(f"{prefix}{name} is {value!r}, but it must not be empty", example(name))
    if kind == "value_error":
        about = next((known for known in setting_names() if known in reason), name)
        return ConfigError(prefix + reason.removeprefix("Value error, "), example(about))
    reason = reason.removeprefix("Input ")
    return ConfigError(
        f"{prefix}{name} is {value!r}, but it {reason}", example(re.sub(r"\.\d+", "", name))
    )


def did_you_mean(name: str) -> str:
    """A hint with the setting most like `name`, letters in any order (lr_g is g_lr)."""
    from difflib import SequenceMatcher

    def likeness(known: str) -> float:
        pairs = ((name, known), (sorted(name), sorted(known)))
        return max(SequenceMatcher(None, a, b).ratio() for a, b in pairs)

    best = max(setting_names(), key=likeness)
    if likeness(best) < 0.75:
        section = name.split(".")[0]
        inside = [known for known in setting_names() if known.startswith(f"{section}.")]
        return f"{section} has {', '.join(inside)}" if inside else example("")
    return f"did you mean {best}?"
