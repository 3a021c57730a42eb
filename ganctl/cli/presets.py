"""`ganctl presets`."""

from typing import Annotated

import typer


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
        for each in shipped.names():
            config = shipped.load(each)
            size = f"{config.data.resolution} x {config.data.resolution}"
            show.result(
                f"{each:20}  {size:9}  {config.train.steps:>9,} steps of"
                f" {config.optim.batch_size:3} images  {config.data.source:8}"
                f"  {config.model.architecture}"
            )
