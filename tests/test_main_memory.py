"""Memory that is not there is refused, so that it is an error with a hint, not the kernel's kill."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganctl import main_memory
from ganctl.cli.app import main
from ganctl.main_memory import GROUPS, SHARE, available, bounded
from ganctl.training import memory
from tests.cli.test_cli import run as run

LIMIT = resource.RLIMIT_DATA
needs_linux = pytest.mark.skipif(available() is None, reason="only Linux tells what is available")
MEMINFO = "MemTotal:    4000 kB\nMemAvailable:    1000 kB\nSwapFree:    24 kB\nHugePages_Free:  0\n"


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Have the system's files say something."""
    monkeypatch.setattr(main_memory, "PROC", tmp_path / "proc")
    for name, kind in list(GROUPS.items()):
        below = tmp_path / kind.root.relative_to("/")
        monkeypatch.setitem(GROUPS, name, kind._replace(root=below))

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


def test_a_machine_has_what_is_available_and_its_swap(say: Callable[..., None]) -> None:
    assert available() is None
    say({"proc/meminfo": MEMINFO})
    assert available() == 1024 * 1024


def test_a_group_has_its_limit_less_what_it_uses_but_for_cached_files(
    say: Callable[..., None],
) -> None:
    """The tightest of those above a process counts; those without a limit do not."""
    group = "sys/fs/cgroup/a"
    say({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/a/b\n"})
    say({f"{group}/b/memory.max": "max\n", f"{group}/b/memory.current": "5\n"})
    assert available() == 1024 * 1024
    say({f"{group}/memory.max": "900\n", f"{group}/memory.current": "500\n"})
    say({f"{group}/memory.stat": "anon 300\ninactive_file 70\nactive_file 9\n"})
    assert available() == 900 - 500 + 70 + 9


def test_groups_of_the_older_version_count_too(say: Callable[..., None]) -> None:
    group = "sys/fs/cgroup/memory/a"
    say({"proc/meminfo": MEMINFO, "proc/self/cgroup": "5:cpu,memory:/a\n1:cpuset:/a\n0::/\n"})
    say({f"{group}/memory.limit_in_bytes": "900\n", f"{group}/memory.usage_in_bytes": "950\n"})
    assert available() == 0
    say({f"{group}/memory.stat": "inactive_file 1\ntotal_inactive_file 70\ntotal_active_file 9\n"})
    assert available() == 900 - 950 + 70 + 9


@needs_linux
def test_more_than_its_part_is_refused_and_the_limit_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit that the user has set stays where it is lower."""
    before = resource.getrlimit(LIMIT)
    monkeypatch.setattr(main_memory, "available", lambda: 2**30)
    with bounded(processes=2) as room:
        assert room == int(SHARE * 2**29)
        with pytest.raises(RuntimeError, match="can't allocate memory") as refused:
            torch.empty(2**32, dtype=torch.uint8)
        assert memory.is_full(refused.value)
        tighter = resource.getrlimit(LIMIT)[0]
        monkeypatch.setattr(main_memory, "available", lambda: 2**34)
        with bounded():
            assert resource.getrlimit(LIMIT)[0] == tighter
    assert resource.getrlimit(LIMIT) == before
    torch.empty(2**29, dtype=torch.uint8)


def greedy(*arguments: object, **options: object) -> None:
    """More than any of these tests has freed before, and not used, so that the machine has it."""
    torch.empty(2**32, dtype=torch.uint8)
    pytest.fail("it was not refused")


@needs_linux
@pytest.mark.parametrize(
    ("command", "work", "what", "hint"),
    [
        ("sample r", "sampling.draw.latents", "while drawing 64 images", "--batch-size 16 needs"),
        ("inspect-attention r", "insight.attention_views.look", "while looking at 64", "a lower -n"),
        ("resume r --steps 3", "session.train", "with batches of 4", "set optim.grad_accumulation"),
        ("train --dry-run", "session.train_step", "with batches of 16", "--set optim.grad_acc"),
    ],
)  # fmt: skip
def test_a_command_that_would_be_killed_says_what_to_lower(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, work: str, what: str, hint: str,
) -> None:  # fmt: skip
    run.rename("r")
    monkeypatch.setattr(main_memory, "available", lambda: 10**9)
    monkeypatch.setattr(f"ganctl.{work}", greedy)
    assert main(command.split()) == 8
    said = capsys.readouterr().err
    assert f"error: out of memory {what}" in said
    assert "(0.8 GB were available)\n" in said
    assert hint in said.partition("\nhint: ")[2]
