"""`ganctl presets`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ganctl.settings.config import Config


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one, with its comments.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The settings as JSON.")] = False,
) -> None:
    """List the presets, or print one.

    \b
    ganctl presets
    ganctl presets celeba64 > mine.yaml
    """
    from ganctl.cli import show
    from ganctl.settings import presets as shipped

    if json:
        names = [name] if name else shipped.names()
        configs = {each: shipped.load(each).model_dump() for each in names}
        show.result_json(configs[name] if name else configs)
    elif name:
        show.result_text(shipped.path_of(name).read_text())
    else:
        rows = [_row(each, shipped.load(each)) for each in shipped.names()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            show.result("  ".join(cells).rstrip())


def _row(name: str, config: "Config") -> tuple[str, ...]:
    data, optim = config.data, config.optim
    size = f"{data.resolution} x {data.resolution}"
    steps = f"{config.train.steps:>9,} steps of {optim.batch_size:3} images"
    return name, size, steps, data.source, config.model.architecture
