"""The standing adversary for a short while; `python -m tests.fuzz` plays for as long as one likes."""

import os
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import adversary, commands, damage, world
from tests.fuzz.adversary import Adversary

SEED, CASES, GROUPS = 1, 60, 2
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="it counts files and processes in /proc"
)


@needs_linux
@pytest.mark.parametrize("group", range(GROUPS))
def test_no_command_line_and_no_damage_is_more_than_a_sentence(tmp_path: Path, group: int) -> None:
    """Documented exit codes, no traceback, no process left, nothing touched outside, no hanging."""
    playing = Adversary(tmp_path / "worlds")
    for case in range(group, CASES, GROUPS):
        outcome = playing.play(SEED, case)
        assert not outcome.finding, f"python -m tests.fuzz --seed {SEED} --case {case}: {outcome}"


def test_a_case_is_a_function_of_its_seed(tmp_path: Path) -> None:
    lines = [[commands.command(Random(f"{seed}/3")) for seed in range(50)] for _ in range(2)]
    assert lines[0] == lines[1]
    assert len({tuple(line) for line in lines[0]}) > 40
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"a": [1, 2, {"b": 3}]}')
        damage.damage(tmp_path / name, Random(5))
    assert damage._changed(b"abcdef" * 9, Random(1)) == damage._changed(b"abcdef" * 9, Random(1))


@needs_linux
def test_the_adversary_notices_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its accusations, raised by a command that deserves it."""
    playing = Adversary(tmp_path / "worlds")

    def crash(words: list[str]) -> int:
        raise ZeroDivisionError

    def stray(words: list[str]) -> int:
        Path("..", world.OUTSIDE, "victim").write_text("changed")
        return 0

    def leave(words: list[str]) -> int:
        Path(f".ganctl-{os.getpid()}").write_text("half")
        return 0

    def change(words: list[str]) -> int:
        Path("photos/a/new.png").write_text("x")
        Path("mine.yaml").unlink(missing_ok=True)
        Path("mine.yaml").write_text("changed")
        return 0

    deserved = {
        "ZeroDivisionError": crash,
        "outside": stray,
        "left behind": leave,
        "was changed": change,
        "exit 1": lambda words: 1,
        "without a word": lambda words: 2,
    }
    for accusation, deed in deserved.items():
        monkeypatch.setattr(adversary, "main", deed)
        assert any(accusation in playing.play(0, case).finding for case in range(4)), accusation
