"""`ganctl export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganctl.cli.outputs import check_file, check_folder, name_part, writing
from ganctl.cli.points import Source
from ganctl.errors import ConfigError

if TYPE_CHECKING:
    from ganctl.export.network import Exported
    from ganctl.store.journal import Row

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "hub": "", "page": ".html"}


def export(
    source: Source = None,
    to: Annotated[
        str, typer.Option("--to", help="safetensors, onnx, hub or page.  (see below)")
    ] = "",
    network: Annotated[str, typer.Option(help="g, or d in a .safetensors or .onnx file.")] = "g",
    out: Annotated[
        Path | None, typer.Option(help="The file, or hub's folder.  (default: one here)")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The generator's live weights instead of their average.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file --out names.")] = False,
) -> None:
    """Write a network so that it runs elsewhere.

    safetensors: one file; `ganctl sample` and `inspect-sn` read it too.

    onnx: plain operations in fp32 for other programs, at once compared with ganctl's images.

    page: an HTML file that draws the images in a browser, without a network.

    hub: a folder for the Hugging Face Hub, with a card to fill in and example images.

    \b
    ganctl export --to page
    ganctl export runs/celeba64-001 --to onnx --out faces.onnx
    ganctl export ckpt.pt --to safetensors --network d
    """
    _check_options(to, network, raw, out)
    if out is not None:
        _check_place(to, out, force=force)

    from ganctl.cli import show
    from ganctl.export import network as networks
    from ganctl.store import runs

    if to == "onnx":
        from ganctl.export.onnx_file import need_onnx

        need_onnx()
    path = runs.find_checkpoint(source)
    exported = networks.choose(path, network, raw=raw)
    if out is None:
        out = _default_name(exported, to)
        _check_place(to, out, force=force)
    with writing(out):
        _write(to, out, exported, _scores(path, exported.saved.step))
    show.result(str(out))


def _check_options(to: str, network: str, raw: bool, out: Path | None) -> None:
    """ConfigError if an option has a value that it cannot have, or does not fit another."""
    if to not in SUFFIXES:
        what = f"--to is {to!r}" if to else "--to is missing"
        raise ConfigError(f"{what}, but it must be one of {', '.join(SUFFIXES)}")
    if network not in ("g", "d"):
        raise ConfigError(f"--network is {network!r}, but it must be g or d")
    if network == "d" and to in ("hub", "page"):
        hint = "use --to safetensors or --to onnx"
        raise ConfigError(f"--to {to} is for generators, but --network is d", hint)
    if network == "d" and raw:
        raise ConfigError("--raw is for generators, but --network is d", "leave it out")
    if out is not None and out.suffix.lower() != SUFFIXES[to]:
        wanted = f"a {SUFFIXES[to]} file" if SUFFIXES[to] else "a folder, without a suffix"
        hint = f"--out {out.parent / (out.stem or 'network')}{SUFFIXES[to]}"
        raise ConfigError(f"--to {to} makes {wanted}, but --out is {out}", hint)


def _check_place(to: str, out: Path, *, force: bool) -> None:
    if to == "hub":
        check_folder(out)
    else:
        check_file(out, force=force)


def _write(to: str, out: Path, exported: "Exported", scores: "Sequence[Row]") -> None:
    from ganctl.cli import show
    from ganctl.export import hub, onnx_file, page
    from ganctl.store.contents import save_exported
    from ganctl.store.durable import write_text

    if to == "safetensors":
        save_exported(out, exported.network, exported.name, exported.saved)
    elif to == "hub":
        hub.write(out, exported, scores)
    elif to == "page":
        made = page.page_of(exported)
        write_text(out, made.document)
        exact = "half" if made.half else "single"
        show.note(f"compared: at most {made.largest:.2g} grey levels away, in {exact} precision")
    elif (compared := onnx_file.write(out, exported)) is None:
        show.note("not compared with ganctl's own results: onnxruntime is not installed")
    else:
        where = f"at most {compared.largest:.1g} from ganctl's"
        show.note(f"compared: onnxruntime's results of {compared.inputs} inputs are {where}")


def _default_name(exported: "Exported", to: str) -> Path:
    """In the current folder, named after what it is."""
    kind = {"generator_ema": "", "generator": "-raw", "discriminator": "-d"}[exported.name]
    name = f"{name_part(exported.saved.run.name)}-step{exported.saved.step}{kind}"
    return Path(f"{name}-hub" if to == "hub" else name + SUFFIXES[to])


def _scores(path: Path, step: int) -> "list[Row]":
    """The rows with scores, up to `step`, of the run whose checkpoint `path` is, if it is one's."""
    from ganctl.store import runs

    for folder in path.resolve().parents[:2]:  # best.pt lies in the run's folder itself
        if (folder / "run.json").is_file():
            rows = (row for row in runs.find(folder).journal.rows() if row["step"] <= step)
            return [row for row in rows if any(name.startswith("score") for name in row)]
    return []
