"""The pictures and tables of README.md and docs/: all of one run, so that they cannot disagree.

python -m docs.make                           # trains it first: minutes on two quiet cores
python -m docs.make --run runs/faces32-001    # of a run that is there
python -m docs.make --clothes fashion/        # docs/clothes.png: of a folder for each class
python -m docs.make --heads heads/            # docs/memorising.png: of a hundred cartoon heads

Those of README.md need a Chromium. docs/ablation.png is made by `python -m benchmarks.ablation`.
"""

import argparse
import io
import json
import re
import shlex
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from ganctl.cli import show, watching
from ganctl.insight import curves
from ganctl.settings import presets
from ganctl.store import checkpoint, runs
from ganctl.store.contents import described
from ganctl.store.runs import Run
from tests.browser import Browser, program

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
GAP = 24  # pixels between two pictures
COLUMNS = 100  # of the terminal
INSPECT_ATTENTION = (
    "--network", "g", "--rows", "4", "--out", str(DOCS / "attention.png"), "--force",
)  # fmt: skip
INSPECT_SN = ("--network", "d", "--top-k", "3")
REPORT, PAGE = (1100, 1420), (1060, 960)  # pixels that are shown of them
POINT_AT_AN_EYE = """(() => { const image = document.getElementById('image');
    const box = image.getBoundingClientRect(), seed = document.getElementById('seed');
    seed.value = '4'; seed.dispatchEvent(new Event('input'));
    document.getElementById('more').click();
    const x = box.left + box.width * 12.5 / 32, y = box.top + box.height * 14.5 / 32;
    image.dispatchEvent(new PointerEvent('pointermove', {clientX: x, clientY: y}));
    return new Promise((done) => setTimeout(done, 1000)); })()"""

# What docs/images.md shows, beside the commands.
CLOTHES = "--preset sngan-cifar10-cond --set model.width=32 --batch-size 32 --steps 3100"
DRAW_CLOTHES = "-n 100"
HEADS = "--steps 2000"
AUGMENTED = "--set 'augment.policy=[colour,translation,cutout]' --set augment.probability=adaptive"
MEMORISING = ("step", "alarms", "memorising_auc", "augment_p")  # figures of metrics.jsonl


def main() -> None:
    """Make what is asked for; trains unless a run is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a run of the default preset")
    parser.add_argument("--clothes", type=Path, help="a folder of images, in one for each class")
    parser.add_argument("--heads", type=Path, help="a folder of a hundred images")
    asked = parser.parse_args()
    if asked.clothes:
        write_clothes(asked.clothes)
    if asked.heads:
        write_memorising(asked.heads)
    if asked.run or not (asked.clothes or asked.heads):
        if asked.run is None:
            ganctl("train")
        write_first_run(runs.find(asked.run))


def write_first_run(run: Run) -> None:
    """docs/faces32.md, and the pictures and scores of README.md."""
    write_faces(run)
    write_terminal(run)
    write_pages(run)
    attention = ganctl("inspect-attention", str(run.folder), *INSPECT_ATTENTION)
    spectra = ganctl("inspect-sn", str(run.folder), *INSPECT_SN)
    write_scores(json.loads(ganctl("score", str(run.folder), "--json")))
    write_text(run, attention.rsplit("\n", 1)[0], spectra, ganctl("score", str(run.folder)))


def write_clothes(folder: Path) -> None:
    """A conditional run's images, a row for each class."""
    newest = ganctl("train", "--data", str(folder), *CLOTHES.split())
    picture = DOCS / "clothes.png"
    ganctl("sample", newest, *DRAW_CLOTHES.split(), "--out", str(picture), "--force")


def write_memorising(folder: Path) -> None:
    """Whether D learns few images by heart, without augmentation and with it."""
    drawn = {}
    for name, options in (("plain", HEADS), ("augmented", f"{HEADS} {AUGMENTED}")):
        ganctl("train", "--data", str(folder), "--run", f"runs/{name}", *shlex.split(options))
        journal = Run(Path("runs") / name, "").journal
        rows = [{key: row[key] for key in MEMORISING if key in row} for row in journal.rows()]
        drawn[name] = curves.Curves(rows, curves.marks(journal.events()))
    (DOCS / "memorising.png").write_bytes(curves.draw(drawn))


def ganctl(*arguments: str) -> str:
    """What a command prints as its result, without blanks around it."""
    command = [sys.executable, "-m", "ganctl", *arguments]
    print("+ ganctl", shlex.join(arguments), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")


def write_faces(run: Run) -> None:
    """The last preview, and beside it real images."""
    previews = sorted(path for path in run.samples.glob("*.png") if path.stem.isdecimal())
    pair = [np.asarray(Image.open(path)) for path in (previews[-1], run.samples / "reals.png")]
    gap = np.full((pair[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    Image.fromarray(np.concatenate([pair[0], gap, pair[1]], axis=1)).save(DOCS / "faces32.png")


def write_terminal(run: Run) -> None:
    """The panel as it was at the last figures."""
    row = run.journal.rows()[-1]
    screen = Console(width=COLUMNS, file=io.StringIO(), record=True, force_terminal=True)
    show.console = screen
    train = presets.load(str(run.folder / "config.yaml")).train
    panel = watching.LivePanel(str(run.folder), 0, train.steps, train.checkpoint_every)
    panel.stepped(row["step"])
    panel.measured(row)
    panel.saved(row["step"], "")
    screen.print(panel._panel())
    screen.save_svg(str(DOCS / "terminal.svg"), title="ganctl train")


def write_pages(run: Run) -> None:
    """The beginning of a report, and the page that draws, as a browser shows them."""
    path = program()
    assert path is not None, "Chromium takes pictures of pages, and is not installed"
    with TemporaryDirectory() as folder:
        browser = Browser(path, Path(folder) / "profile")
        report, page = Path(folder) / "report.html", Path(folder) / "page.html"
        ganctl("report", str(run.folder), "--out", str(report))
        ganctl("export", str(run.folder), "--to", "page", "--out", str(page))
        browser.open(report, *REPORT)
        take_picture(browser, DOCS / "report.png")
        browser.open(page, *PAGE)
        browser.evaluate(POINT_AT_AN_EYE)
        take_picture(browser, DOCS / "page.png")
        browser.close()


def take_picture(browser: Browser, path: Path) -> None:
    """Of what the browser shows."""
    path.write_bytes(b64decode(browser.command("Page.captureScreenshot", format="png")["data"]))


def write_scores(report: dict[str, Any]) -> None:
    """The rows of README.md's table."""
    page = README.read_text()
    rows = {
        "`faces32`, 3,500 steps": report["scores"][0],
        "real images: the floor": report["floor"],
    }
    for name, found in rows.items():
        figures = [f"{found['fd']:.1f}", f"{found['kid']:.4f} ± {found['kid_error']:.4f}"]
        figures += [f"{found[kind]:.3f}" for kind in ("precision", "recall", "density", "coverage")]
        row = f"| {name} | {' | '.join(figures)} |"
        page, count = re.subn(rf"^\| {re.escape(name)} \|.*$", row, page, flags=re.MULTILINE)
        assert count == 1, name
    README.write_text(page)


def write_text(run: Run, attention: str, spectra: str, score: str) -> None:
    """docs/faces32.md: the commands, and what they print."""
    status = json.loads((run.folder / "status.json").read_text())
    saved = described(checkpoint.peek(run.newest_checkpoint()), run.folder)
    used = saved.exactness
    how = f"torch {used['torch']}, {saved.config.train.precision}, {used['threads']} thread(s)"
    sn = shlex.join(["ganctl", "inspect-sn", str(run.folder), *INSPECT_SN])
    options = [part for part in INSPECT_ATTENTION if part != "--force"]
    options[-1] = "attention.png"
    looked = shlex.join(["ganctl", "inspect-attention", str(run.folder), *options])
    (DOCS / "faces32.md").write_text(
        f"""# One run of the default preset

All here, and all pictures and scores of README.md, were made by `python -m docs.make` from one run,
which ended on {status["time"][:10]} ({how} of a {used["device"]}):

```sh
ganctl train
```

![Generated and drawn cartoon faces](faces32.png)

![The panel in a terminal](terminal.svg)

## Where attention looks

`{looked}` draws this and prints the table:

![Where the points of four generated faces look](attention.png)

```
{attention}
```

## What the weights do

`{sn}`

```
{spectra}
```

## How good it is

`ganctl score {run.folder}`

```
{score}
```
"""
    )


if __name__ == "__main__":
    main()
