"""Several processes that score share the work, and get the figures of one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crew import Crew, together

from ganctl import distributed
from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.errors import CheckpointError, DataError, GanctlError
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.scores import features
from ganctl.scores.comparison import RealImages, compare, of_generator
from ganctl.scores.features import Features
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs, sharing
from ganctl.training import scorekeeping, state
from tests.scores.stand_ins import plain
from tests.training.test_resume import trained

COUNT = 150  # two batches and a part of a third: the processes have different numbers of batches


def plain_features() -> Features:
    return Features("plain", "0" * 64, "averaged to 2 px", 12, plain, torch.device("cpu"))


def ignore(done: int, total: int) -> None:
    pass


def scored(config: Config, images: np.ndarray) -> list[Any]:
    """Scores of a new generator, also with real statistics that are kept; and the floor."""
    generator, _ = build_networks(config.model, config.data, random_stream(0, "x"))
    real, given = RealImages(images, "drawn", COUNT), plain_features()
    twice = [real.statistics(given, ignore) for _ in range(2)]
    fake = of_generator(generator.eval(), COUNT, given, ignore)
    return [[compare(each, fake) for each in twice], real.floor(given, ignore)]


def test_scores_in_two_processes_are_the_same_numbers(
    tiny: Callable[..., Config], pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scored(tiny(), pictures)
    assert expected[0][0] == expected[0][1]
    monkeypatch.setenv("GANCTL_CACHE", "another")  # else nothing real is measured
    assert together(2, scored, tiny(), pictures) == [expected] * 2


def failing(config: Config, images: np.ndarray) -> list[tuple[str, str]]:
    """What is raised here where something is wrong with the second process alone."""
    mine, said = distributed.rank() == 1, []
    generator, _ = build_networks(config.model, config.data, random_stream(0, "x"))
    if mine:
        torch.nn.init.constant_(generator.to_rgb.bias, torch.nan)

    def stop(done: int, total: int) -> None:
        if mine and done == 128:
            raise DataError("enough")

    for task in (
        lambda: of_generator(generator.eval(), COUNT, plain_features(), ignore),
        lambda: RealImages(images, "drawn", COUNT).statistics(plain_features(), stop),
    ):
        with pytest.raises(GanctlError) as caught:
            task()
        said.append((type(caught.value).__name__, caught.value.message))
    assert together_still()
    return said


def together_still() -> bool:
    return distributed.gathered(torch.ones(1)).sum() == distributed.size()


def test_what_one_process_cannot_measure_is_an_error_of_all_that_can_go_on(
    tiny: Callable[..., Config], pictures: np.ndarray
) -> None:
    for rank, said in enumerate(together(2, failing, tiny(), pictures)):
        assert [name for name, _ in said] == [CheckpointError.__name__, DataError.__name__]
        by = "" if rank == 1 else "process 1 on "
        assert all(message.startswith(by) for _, message in said)
        assert said[0][1].endswith("the generator draws images that are not finite")


def scored_in_training(config: Config, images: np.ndarray) -> None:
    scorekeeping.open_features = lambda which, device: plain_features()  # type: ignore[assignment]
    trained(sharing.opened(lambda: runs.create(Path("r"), "x", config)), config, images)


def test_a_run_in_processes_has_the_score_of_its_checkpoint(tiny: Callable[..., Config]) -> None:
    images = np.stack([np.asarray(draw_face(i, 32)) for i in range(COUNT)])
    changes = {"score__every": 2, "score__images": COUNT, "train__log_every": 2, "train__steps": 2}
    together(2, scored_in_training, tiny(**changes), images)
    run = runs.find(Path("r"))
    (row,) = run.journal.rows()
    made = state.create(tiny(**changes), torch.device("cpu"), 0)
    made.load(checkpoint.read(run.folder / "best.pt")[0], run.folder / "best.pt")
    fake = of_generator(made.generator_ema, COUNT, plain_features(), ignore)
    real = RealImages(images, "drawn", COUNT).statistics(plain_features(), ignore)
    for name, figure in compare(real, fake)._asdict().items():
        assert row[f"score_{name}"] == float(f"{figure:.6g}")


def command(*words: str) -> int:
    features.open_features = lambda which, device: plain_features()  # type: ignore[assignment]
    rank = os.environ["RANK"]
    out = os.open(f"out.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    return main(list(words))


def test_the_command_prints_once_what_one_process_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, first in (("real", 0), ("fake", 200)):
        Path(name).mkdir()
        for number in range(80):
            draw_face(first + number, 16).save(Path(name) / f"{number:02}.png")
    words = ["score", "--images", "fake", "--data", "real", "-n", "40", "--json"]
    monkeypatch.setenv("RANK", "0")
    assert Crew(1, command, *words).results() == [0]
    alone = json.loads(Path("out.0").read_text())
    Path("out.0").unlink()
    assert Crew(2, command, *words).results() == [0, 0]
    assert json.loads(Path("out.0").read_text()) == alone
    assert Path("out.1").read_text() == ""
