"""What was typed wrongly before any command could look at it: one sentence each, and a hint."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ganctl.errors import ConfigError, shell_quoted

# What people type who come from other programs.
COMMANDS = {
    "version": "ganctl --version",
    "list": "ganctl runs lists runs, ganctl presets lists presets",
    "ls": "ganctl runs lists runs, ganctl presets lists presets",
    "status": "ganctl runs says how runs stand",
    "generate": "ganctl sample draws images",
    "continue": "ganctl resume goes on with a run",
    "inspect": "ganctl inspect-sn looks at weights, ganctl inspect-attention at attention",
}
OPTIONS = {
    ("train", "--resume"): "ganctl resume RUN goes on with a run",
    ("train", "--epochs"): "--steps says how long: a step is an update of the generator",
    ("train", "--out"): "--run names the run's folder",
    ("train", "--lr"): "there are two: --set optim.g_lr=1e-4 --set optim.d_lr=4e-4",
    ("resume", "--set"): "edit config.yaml in the run's folder, which says what may be changed",
    ("sample", "--classes"): "it is called --class",
}  # fmt: skip


def check_words(words: Sequence[str]) -> None:
    """ConfigError if a word of the command line is empty, as an unset shell variable makes it."""
    for before, word in zip(["", *words], words, strict=False):
        option = before if word == "" else word[:-1]
        if word == "" or (word.startswith("--") and word.endswith("=") and "=" not in option):
            what = option if option.startswith("-") else "an argument"
            raise ConfigError(f"{what} is empty", "leave it out, or give it a value")


def explained(error: Exception, words: Sequence[str], commands: Sequence[str]) -> ConfigError:
    """What the parser of the command line complains of, in our words."""
    command = next((word for word in words if word in commands), "")
    help_hint = f"`{' '.join(['ganctl', command]).strip()} --help` says what there is"
    message: str = error.format_message()  # type: ignore[attr-defined]
    option = getattr(error, "option_name", None)
    if "o such command" in message:
        return _no_command(_quoted(message), commands)
    if option is not None and "o such option" in message:
        known = getattr(error, "possibilities", None) or []
        close = f"did you mean {known[0]}?" if known else help_hint
        hint = OPTIONS.get((command, option), close)
        return ConfigError(f"`ganctl {command}` has no option {option}".replace(" `", "`"), hint)
    if found := re.search(r"extra arguments?(?:\(s\))? \((.*)\)", message):
        return _extra(command, found[1], help_hint)
    if isinstance(value := _value_of(message, words), str):
        reason = message.split(": ", 1)[1].removeprefix("Input ").split(", unable")[0]
        return ConfigError(f"{_quoted(message)} is {value!r}, but it {reason}", help_hint)
    return ConfigError(message[:1].lower() + message[1:].rstrip("."), help_hint)


def _no_command(name: str, commands: Sequence[str]) -> ConfigError:
    close = get_close_matches(name, commands, n=1)
    hint = f"did you mean ganctl {close[0]}?" if close else f"there are {', '.join(commands)}"
    return ConfigError(f"there is no command {name}", COMMANDS.get(name, hint))


def _extra(command: str, words: str, help_hint: str) -> ConfigError:
    """For example `ganctl train photos/`."""
    from ganctl.settings import presets

    hint = help_hint
    if command == "train":
        preset = words in presets.names() or words.endswith((".yaml", ".yml"))
        run = os.path.exists(Path(words) / "run.json")  # also where the name is too long
        option = "ganctl train --preset" if preset else "ganctl train --data"
        hint = f"{'ganctl resume' if run else option} {shell_quoted(words)}"
    return ConfigError(f"`ganctl {command}` does not take {words!r} without an option", hint)


def _quoted(message: str) -> str:
    """The first name in quotes, of an option the first of its spellings."""
    found = re.search(r"'([^']+)'", message)
    return found[1].split(" / ")[0] if found else ""


def _value_of(message: str, words: Sequence[str]) -> str | None:
    """What was given to the option whose value is bad."""
    name = _quoted(message)
    if "nvalid value" not in message or ": " not in message:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith((f"{name}=", name)) and name:
            return word.removeprefix(name).removeprefix("=")
    return None
