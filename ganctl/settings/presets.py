"""Finding presets, and making one configuration of a preset, what it extends, and --set."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ganctl.errors import ConfigError
from ganctl.settings import config, strict_yaml
from ganctl.settings.config import Config
from ganctl.settings.shipped import folder
from ganctl.settings.shipped import names as names
from ganctl.settings.strict_yaml import Document, KeyPath, Value

MAX_EXTENDS = 8


def path_of(preset: str) -> Path:
    """The file of a preset's name, or of a path that ends in .yaml or .yml."""
    if preset.endswith((".yaml", ".yml")):
        if not _is_file(Path(preset)):
            hint = "`ganctl presets celeba64 > mine.yaml` starts one"
            raise ConfigError(f"there is no preset file {preset}", hint)
        return Path(preset)
    if preset in names():
        return folder() / f"{preset}.yaml"
    close = get_close_matches(preset, names(), n=1)
    known = ", ".join(names())
    hint = (
        f"did you mean {close[0]}?" if close else f"the presets are {known}; or give a .yaml file"
    )
    raise ConfigError(f"unknown preset {preset!r}", hint=hint)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def load(
    preset: str, overrides: Sequence[str] = (), given: Mapping[str, Value] | None = None
) -> Config:
    """The configuration of a preset with `key=value` overrides applied in their order.

    `given`: dotted settings that have options of their own, which come last.
    """
    document = _read(path_of(preset), ())
    for override in overrides:
        name, value = _parse(override)
        _lay(document, name, value, origin="--set")
    for name, value in (given or {}).items():
        _lay(document, name, value, origin="")
    return config.validate(document.settings, document.origins)


def _read(path: Path, extending: tuple[Path, ...]) -> Document:
    """The settings of a file, which others are `extending`, laid over those that it extends."""
    document = strict_yaml.read_file(path)
    parent = document.settings.pop("extends", None)
    if parent is None:
        return document
    where = document.origins[("extends",)]
    if not isinstance(parent, str):
        raise ConfigError(f"{where}: extends needs the name of a preset or a .yaml file")
    beside = path.parent / parent
    base_path = beside if _is_file(beside) else path_of(parent)
    if any(base_path.samefile(each) for each in (path, *extending)):
        hint = f"extend a preset that comes with ganctl: {', '.join(names())}"
        raise ConfigError(f"{where}: {path} extends itself", hint)
    if len(extending) == MAX_EXTENDS:
        hint = "let one of them extend the last one right away"
        raise ConfigError(f"{where}: more than {MAX_EXTENDS} presets extend one another", hint)
    base = _read(base_path, (*extending, path))
    settings = _merge(base.settings, document.settings)
    return Document(settings, {**base.origins, **document.origins})


def _merge(base: dict[str, Value], top: dict[str, Value]) -> dict[str, Value]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _parse(override: str) -> tuple[str, Value]:
    """The name and the value of one `key=value`."""
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ConfigError(
            f"--set {override!r} is not key=value", hint="for example optim.g_lr=1e-4"
        )
    if name not in config.setting_names():
        raise ConfigError(f"unknown setting {name}", hint=config.did_you_mean(name))
    return name, strict_yaml.read_value(text)


def _lay(document: Document, name: str, value: Value, origin: str) -> None:
    """Lay one setting over the others; `origin` is what to call the place it came from."""
    path: KeyPath = tuple(name.split("."))
    section: Value = document.settings
    for key in path[:-1]:
        section = section.setdefault(str(key), {}) if isinstance(section, dict) else None
    if isinstance(section, dict):  # else the file has something odd there, which validation names
        section[str(path[-1])] = value
    document.origins[path] = origin
