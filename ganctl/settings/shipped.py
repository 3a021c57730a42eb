"""The preset files that come with ganctl, and what they say of a setting: examples for hints."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
FIRST = "celeba64"  # it states nearly every setting, with its meaning or source


def folder() -> Path:
    """Where the presets are: inside an installed wheel, or beside the package in a checkout."""
    return next(p for p in (PACKAGE / "presets", PACKAGE.parent / "presets") if p.is_dir())


def names() -> list[str]:
    """The names that --preset knows."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def example(setting: str) -> str:
    """A hint: the value of a dotted setting in the first preset that states it, and why."""
    for preset in sorted(names(), key=lambda name: name != FIRST):
        line = _lines(folder() / f"{preset}.yaml").get(setting)
        if line is not None:
            value, _, reason = (part.strip() for part in line.partition("#"))
            why = f" ({reason})" if reason else ""
            return f"{preset} has {value}{why}; `ganctl presets {preset}` prints all of it"
    return f"`ganctl presets {FIRST}` prints settings with their meaning"


def _lines(file: Path) -> dict[str, str]:
    """What follows the colon of each setting of a file of ours, which is indented by two spaces."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        key, colon, rest = line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            depth = (len(key) - len(key.lstrip())) // 2
            path = [*path[:depth], key.strip()]
            found[".".join(path)] = rest
    return found
