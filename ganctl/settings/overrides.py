"""What may be changed in a run's config.yaml between two starts, and what may not."""

from pathlib import Path

from ganctl.errors import ConfigError, shell_quoted
from ganctl.settings import presets
from ganctl.settings.config import Config, replace, setting_names, value_of

FREE = {  # when to log, preview, score, save and end
    "train.log_every", "train.preview_every", "train.checkpoint_every", "train.checkpoint_minutes",
    "train.keep_checkpoints", "train.keep_every", "train.rollbacks", "train.steps",
    "health.on_alarm", "score.every", "score.images", "score.features",
}  # fmt: skip
PLACES = {"data.source"}  # where the images are: `resume` sees to it that they are the same
NOTED = {"optim.grad_accumulation"}  # needs less memory; but numbers differ from there on


def with_edits(saved: Config, file: Path) -> Config:
    """`saved` with what was edited in the run's config.yaml since; ConfigError if that is fixed.

    What is computed is fixed for the whole run.
    """
    if not file.exists():
        return saved
    edited = presets.load(str(file))
    changes = {}
    for name in setting_names():
        old, new = value_of(saved, name), value_of(edited, name)
        if old == new:
            continue
        if name not in FREE | PLACES | NOTED:
            raise ConfigError(
                f"{file}: {name} is {new!r}, but the run was trained with {old!r}",
                hint=f"undo that, or start another run: ganctl train --preset {shell_quoted(file)}",
            )
        changes[name] = new
    return replace(saved, changes)
