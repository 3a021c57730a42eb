"""best.pt: the checkpoint of a run that scored best, and what it scored.

It is another name of the file that was saved then, so it is as whole as that was, and stays when
retention deletes the name that has the step in it. It is replaced in one moment.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ganctl.errors import CheckpointError, shell_quoted
from ganctl.store import checkpoint
from ganctl.store.durable import place_beside, sync

NAME = "best.pt"
log = logging.getLogger("ganctl")


def publish(folder: Path, path: Path, run_id: str) -> None:
    """Make best.pt of the run in `folder` the checkpoint `path`; OSError, and it is as before."""
    temporary = place_beside(folder / NAME, run_id)
    try:
        try:
            temporary.hardlink_to(path)
        except OSError:  # not every file system has links
            shutil.copyfile(path, temporary)
            sync(temporary)
        os.replace(temporary, folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)


def set_aside_after(folder: Path, step: int, run_id: str) -> None:
    """Rename best.pt to .abandoned if it is of a later step than `step`, to which a run went back.

    One that tells no step is left, and gives way to the next score.
    """
    score = score_of(folder / NAME, run_id)
    if score is not None and score["step"] > step:
        (folder / NAME).rename((folder / NAME).with_suffix(".abandoned"))
        sync(folder)


def score_of(path: Path, run_id: str) -> dict[str, Any] | None:
    """What the checkpoint `path` of a run says it scored; None if it says nothing usable."""
    if not path.exists():
        return None
    try:
        metadata = checkpoint.verify(path)
    except CheckpointError as error:
        log.warning("%s; another score takes its place", error.message)
        return None
    run, score = metadata.get("run"), metadata.get("score")
    own = isinstance(run, dict) and run.get("id") == run_id
    kinds = {"step": int, "score_kid": float, "score_kid_error": float, "score_protocol": str}
    complete = isinstance(score, dict) and all(
        isinstance(score.get(name), kind) for name, kind in kinds.items()
    )
    return score if own and complete else None


def find(folder: Path) -> Path:
    """best.pt of the run in `folder`; CheckpointError if there is none."""
    path = folder / NAME
    if not path.exists():
        command = f"ganctl score {shell_quoted(folder)} --all"
        raise CheckpointError(
            f"{folder} has no best checkpoint: it was not scored while it was trained",
            hint=f"set score.every for a run; `{command}` scores what it has kept",
        )
    return path
