"""The pictures and tables of README.md and docs/: all of one run, so that they cannot disagree.

python -m docs.make                           # trains it first: minutes on two quiet cores
python -m docs.make --run runs/faces32-001    # of a run that is there
"""

import argparse
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from ganctl.cli import show, watching
from ganctl.settings import presets
from ganctl.store import checkpoint, runs
from ganctl.store.contents import described
from ganctl.store.runs import Run

DOCS = Path(__file__).parent
GAP = 24  # pixels between two pictures
COLUMNS = 100  # of the terminal
INSPECT_ATTENTION = [
    "--network",
    "g",
    "--rows",
    "4",
    "--out",
    str(DOCS / "attention.png"),
    "--force",
]
INSPECT_SN = ["--network", "d", "--top-k", "3"]


def main() -> None:
    """Train unless a run is named, then make everything of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a run of the default preset")
    folder = parser.parse_args().run
    if folder is None:
        ganctl("train")
    run = runs.find(folder)
    write_faces(run)
    write_terminal(run)
    attention = ganctl("inspect-attention", str(run.folder), *INSPECT_ATTENTION)
    spectra = ganctl("inspect-sn", str(run.folder), *INSPECT_SN)
    write_page(run, attention.rsplit("\n", 1)[0], spectra)


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


def write_page(run: Run, attention: str, spectra: str) -> None:
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

All here, and the pictures of README.md, were made by `python -m docs.make` from one run, which
ended on {status["time"][:10]} ({how} of a {used["device"]}):

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
"""
    )


if __name__ == "__main__":
    main()
