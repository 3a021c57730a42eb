"""What the environment says of a run's processes, and how half of it is refused."""

import pytest

from ganctl.cli.app import main
from ganctl.cli.launching import shared
from ganctl.errors import ConfigError
from ganctl.processes import Place, place, restarts, timeout

WHOLE = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip


def test_without_the_variables_a_process_is_alone() -> None:
    assert place({}) == Place() == Place(0, 1)
    assert place({"MASTER_ADDR": "node0", "MASTER_PORT": "1"}) == Place()  # some clusters set them


def test_a_place_is_what_torchrun_says() -> None:
    assert place(WHOLE) == Place(3, 8, 1, 2, "node0", 29500)
    assert place({k: v for k, v in WHOLE.items() if k != "LOCAL_WORLD_SIZE"}).local_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": None}, "RANK is set in the environment, but MASTER_ADDR is not"),
        ({"RANK": None}, "WORLD_SIZE is set in the environment, but RANK is not"),
        ({"WORLD_SIZE": None}, "RANK is set in the environment, but WORLD_SIZE is not"),
        ({"LOCAL_RANK": None}, "RANK is set in the environment, but LOCAL_RANK is not"),
        ({"RANK": "8"}, "RANK is 8, but the last of 8 processes is 7"),
        ({"RANK": "-1"}, "RANK is '-1' in the environment, but it must be a number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment, but it must be a number"),
        ({"WORLD_SIZE": "0"}, "RANK is 3, but the last of 0 processes is -1"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, but there are 2 of 8 processes here"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536, but ports go from 1 to 65535"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is '' in the environment, but it must be a number"),
    ],
)  # fmt: skip
def test_half_of_the_variables_and_nonsense_are_refused(
    changes: dict[str, str | None], message: str
) -> None:
    said = {name: value for name, value in (WHOLE | changes).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        place(said)
    assert caught.value.message == message
    assert "unset RANK WORLD_SIZE" in str(caught.value.hint)


def test_a_command_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--run", "r"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: WORLD_SIZE is set in the environment, but RANK is not",
        "hint: start it with `torchrun` or --processes, or alone: unset RANK WORLD_SIZE",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "0"], "--processes is '0', but it is 1 to 1024, or all"),
        (["--processes", "many"], "--processes is 'many', but it is 1 to 1024, or all"),
        (["--processes", "2", "--dry-run"], "--dry-run measures one process"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["train", *options]) == 2
    assert f"error: {message}\n" in capsys.readouterr().err


def test_one_process_is_not_started_anew() -> None:
    assert shared(["train"], None) is None
    assert shared(["train"], "1") is None


def test_processes_and_torchrun_must_not_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert shared(["train"], "8") is None
    assert shared(["train"], "all") is None
    with pytest.raises(ConfigError, match="--processes is 2, but the environment says 8"):
        shared(["train"], "2")


def test_restarts_and_the_time_limit() -> None:
    assert restarts({}) == (0, 0)
    assert restarts({"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}) == (1, 3)
    assert (timeout({}), timeout({"GANCTL_TIMEOUT": "2.5"})) == (600, 2.5)
    for nonsense in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match="GANCTL_TIMEOUT is"):
            timeout({"GANCTL_TIMEOUT": nonsense})


def test_a_run_that_may_be_restarted_needs_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert main(["train"]) == 2
    assert "with --max-restarts a run must be named" in capsys.readouterr().err
