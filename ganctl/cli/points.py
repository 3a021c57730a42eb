"""Which seeds, classes and networks a command is asked for."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from ganctl.errors import ConfigError

MAX_IMAGES = 10_000_000
NETWORKS = {"both": ("g", "d"), "g": ("g",), "d": ("d",)}

# Options that commands have in common.
Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="CKPT|RUN", help="A checkpoint or a run's folder.  (default: the newest run)"
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="The live weights instead of their average.")]
Truncation = Annotated[
    float | None, typer.Option(help="Cut the latents' distribution off here, for example 0.7.")
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of the first image; the next has the next one.  (default: 0)"),
]
Seeds = Annotated[
    str | None, typer.Option(help="Exactly these seeds, for example 0-63 or 3,5,8-10.")
]


def parse_network(text: str) -> tuple[str, ...]:
    """The networks that --network names, "g" before "d"."""
    if text not in NETWORKS:
        raise ConfigError(f"--network is {text!r}, but it must be g, d or both")
    return NETWORKS[text]


def parse_numbers(text: str, option: str) -> list[int]:
    """The numbers in "3,5,8-10", in that order."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise ConfigError(
                f"{option} {text!r} is not a list of numbers and ranges like 3,5,8-10"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"{option} {text!r} has a range that ends before it begins")
        if len(numbers) + last - first >= MAX_IMAGES:
            raise ConfigError(f"{option} {text!r} asks for more than {MAX_IMAGES:,} images")
        numbers += range(first, last + 1)
    return numbers


def parse_classes(text: str | None, names: Sequence[str]) -> list[int | None]:
    """The classes in "dress,3,5-7", by name or number; all if `text` is None.

    [None] if there are no classes.
    """
    if not names:
        if text is not None:
            raise ConfigError("--class: this checkpoint's networks know no classes")
        return [None]
    if text is None:
        return list(range(len(names)))
    chosen: list[int | None] = []
    for part in text.split(","):
        if part.strip() in names:
            chosen.append(names.index(part.strip()))
        elif re.fullmatch(r"[\d\s-]+", part):
            chosen += parse_numbers(part, "--class")
        else:
            close = get_close_matches(part.strip(), names, n=1)
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            hint = f"did you mean {close[0]}?" if close else f"the classes are {known}"
            raise ConfigError(f"there is no class {part.strip()!r}", hint)
    beyond = [number for number in chosen if number is not None and number >= len(names)]
    if beyond:
        hint = f"they are 0 to {len(names) - 1}: {', '.join(names[:20])}"
        raise ConfigError(f"there is no class {beyond[0]}", hint)
    return chosen


def check_number(n: int) -> None:
    """ConfigError if so many images cannot be asked for."""
    if not 1 <= n <= MAX_IMAGES:
        raise ConfigError(f"-n is {n:,}, but it must be from 1 to {MAX_IMAGES:,}")


def check_truncation(truncation: float | None) -> None:
    """ConfigError if latents cannot be cut off there."""
    if truncation is not None and not 0.01 <= truncation <= 10:
        raise ConfigError(f"--truncation is {truncation}, but it must be from 0.01 to 10")


def check_choice(seeds: str | None, seed: int | None, count: int | None) -> None:
    """ConfigError if seeds are named in a wrong way, or in two ways."""
    if seeds is None:
        return
    for option, given in (("--seed", seed), ("-n", count)):
        if given is not None:
            raise ConfigError(f"--seeds says which images, so {option} has no meaning beside it")
    choose_seeds(seeds, 0, 0)


def choose_seeds(seeds: str | None, first: int, count: int) -> Sequence[int]:
    """The seeds that are named, or `count` from `first` on."""
    if seeds is None:
        check_number(count)
        numbers: Sequence[int] = range(first, first + count)
    else:
        numbers = parse_numbers(seeds, "--seeds")
    if min(numbers) < 0 or max(numbers) >= 2**62:
        odd = next(number for number in numbers if not 0 <= number < 2**62)
        option = "--seed" if seeds is None else "--seeds"
        raise ConfigError(f"{option} has {odd}, but seeds are from 0 to 2^62 - 1")
    return numbers
