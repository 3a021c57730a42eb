"""Scores of a run while it trains: when, of what, and which checkpoint is the best so far.

Latents are those of `ganctl sample`, a stream of its own; nothing here changes the run. What was
best is in best.pt itself, so a resumed run knows it.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from ganctl.data.batches import Batches
from ganctl.distributed import all_do, first_does, is_first, size
from ganctl.errors import ConfigError, DataError, GanctlError, OutOfMemoryError, StoppedError
from ganctl.models import Generator
from ganctl.runtime import without_tf32
from ganctl.scores.comparison import (
    LEAST,
    TRAINING,
    Floor,
    RealImages,
    Scores,
    compare,
    fake_words,
    of_generator,
)
from ganctl.scores.features import NAMES, Features, open_features
from ganctl.scores.protocol import Protocol
from ganctl.scores.statistics import Statistics
from ganctl.settings.config import Config
from ganctl.store import best
from ganctl.store.runs import Run
from ganctl.training.memory import memory_explained
from ganctl.training.metrics import Row
from ganctl.training.stopping import StopRequest

NO_ROOM = "set score.every to 0 in the run's config.yaml, then `ganctl resume`"

log = logging.getLogger("ganctl")


class Measured(NamedTuple):
    """The score of a run at one step."""

    step: int
    scores: Scores
    protocol: Protocol

    def figures(self) -> dict[str, Any]:
        """As a row of metrics.jsonl has them."""
        figures = {f"score_{name}": float(f"{v:.6g}") for name, v in self.scores._asdict().items()}
        return {**figures, "score_protocol": self.protocol.label()}

    def metadata(self) -> dict[str, Any]:
        """The same as a checkpoint has them."""
        return {"step": self.step, **self.figures(), "protocol": self.protocol.as_data()}


class Scorekeeper:
    """Measures a run every so many steps; without features it never does."""

    def __init__(self, config: Config, batches: Batches, run: Run, stop: StopRequest) -> None:
        """`open` it before it is used. `batches` have the real images."""
        self.config, self.batches, self.run, self.stop = config, batches, run, stop
        self._features: Features | None = None
        self._best: Measured | None = None  # that is to be published with the next checkpoint
        self._expected: list[tuple[Statistics | None, Floor | None]] = []  # once, when measured

    def open(self) -> None:
        """Get ready; a run that cannot be scored is told so, and trains all the same.

        ConfigError if score.features is a file of other weights.
        """
        config, journal = self.config, self.run.journal
        if config.score.every:
            self._features = _opened(config, self.batches)
        if self._features is not None:
            count, numbers = _images(config, len(self.batches)), self.batches.numbers
            self._real = RealImages(self.batches.images, TRAINING, count, numbers)
        scored = [row for row in journal.rows() if "score_kid" in row]
        if scored:
            journal.scores["score"] = _short(scored[-1]["step"], scored[-1])
        if config.score.every and is_first():
            self._make_up()
        if before := self._before():
            journal.scores["best"] = _short(before["step"], before)

    def due(self, step: int) -> bool:
        """Whether the run is scored after `step`, which gets a row in metrics.jsonl."""
        every, log_every = self.config.score.every, self.config.train.log_every
        if self._features is None or self.stop.signal_number is not None:
            return False
        if step == self.config.train.steps:
            return True
        return step % log_every == 0 and step // every > (step - log_every) // every

    def measure(self, average: Generator, row: Row) -> Measured | None:
        """The score of the averaged generator, added to its step's `row`; None if there is none.

        Several processes share the work, and all have the score. A signal to one of them that comes
        meanwhile is not kept waiting.
        """
        assert self._features is not None
        begun, count, step = time.perf_counter(), self._real.count, row["step"]

        def progress(done: int, total: int) -> None:
            if (number := self.stop.signal_number) is not None:
                raise StoppedError("the run is asked to stop", None, number)

        try:
            with memory_explained("scoring the run", NO_ROOM), without_tf32():
                if not self._expected:
                    real = self._real.statistics(self._features, progress)
                    self._expected = [(real, self._real.floor(self._features, progress))]
                ((real, floor),) = self._expected
                fake = of_generator(average, count, self._features, progress)
                scores = compare(real, fake)
            if not all(math.isfinite(figure) for figure in scores):
                raise DataError("a figure is not finite")
        except StoppedError as error:
            log.info("step %s is not scored: %s", f"{step:,}", error.message)
            return None
        except GanctlError as error:
            if isinstance(error, OutOfMemoryError) and size() > 1:
                raise  # the others do not know, and go on
            log.warning("step %s cannot be scored: %s", f"{step:,}", error.message)
            return None
        protocol = self._real.protocol(self._features, fake_words(count), count)
        measured = Measured(step, scores, protocol)
        row.update(cast(Row, measured.figures()))
        if is_first():
            seconds = round(time.perf_counter() - begun, 1)
            facts = {"protocol": protocol.as_data(), "floor": floor and floor.as_data()}
            self.run.journal.record("scored", step, seconds=seconds, **facts)
            self._tell(score=_short(step, measured.figures()))
        return measured

    def is_best(self, measured: Measured) -> bool:
        """Whether its KID is below that of best.pt by more than its standard error.

        A score of another protocol says nothing of this one, and gives way.
        """
        self._best = measured
        return _is_better(measured.figures(), self._before())

    def publish(self, path: str) -> None:
        """Make the checkpoint `path`, whose score was the best, best.pt."""
        assert self._best is not None
        step, scores = self._best.step, self._best.scores
        self.run.publish_best(Path(path))
        self.run.journal.record("best", step, kid=scores.kid, kid_error=scores.kid_error)
        self._tell(best=_short(step, self._best.figures()))

    def _before(self) -> dict[str, Any] | None:
        """What best.pt scored, if there is one."""
        return best.score_of(self.run.folder / best.NAME, self.run.run_id)

    def _make_up(self) -> None:
        """A run that was killed between a save and best.pt has its best checkpoint unnamed."""
        if not self.run.has_checkpoints():
            return
        newest = self.run.newest_checkpoint()
        score = best.score_of(newest, self.run.run_id)
        if score is not None and _is_better(score, self._before()):
            self.run.publish_best(newest)
            kid, error = score["score_kid"], score["score_kid_error"]
            self.run.journal.record("best", score["step"], kid=kid, kid_error=error)

    def _tell(self, **facts: dict[str, Any]) -> None:
        """Have status.json say it."""
        self.run.journal.scores |= facts
        self.run.journal.set_status("running", self.run.journal.scores["score"]["step"])


def _is_better(score: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Whether a KID is below an earlier one by more than its standard error, or there is none."""
    if before is None:
        return True
    if before["score_protocol"] != score["score_protocol"]:
        log.info("scores are measured in another way than before: best.pt begins anew")
        return True
    return bool(score["score_kid"] + score["score_kid_error"] < before["score_kid"])


def _opened(config: Config, batches: Batches) -> Features | None:
    """The features that the run is scored with; None, with a word, if they cannot be had here."""
    which, n = config.score.features, len(batches)
    if n < LEAST:
        log.warning("the run is not scored: scores need %d images, and there are %d", LEAST, n)
        return None
    try:
        first_does(lambda: open_features(which, batches.device).name)  # which may be a download
        return all_do(lambda: open_features(which, batches.device))
    except ConfigError as error:
        if which not in NAMES:  # a file, which a user has named
            raise
        log.warning("the run is not scored: %s", error.message)
        log.info("hint: %s; --set score.every=0 is to do without", error.hint)
        return None


def _images(config: Config, n: int) -> int:
    """How many images of each kind are compared: not more than there are real ones."""
    if config.score.images > n:
        asked = f"{config.score.images:,}"
        log.info("score.images is %s, but there are %d images: it is %d here", asked, n, n)
    return min(config.score.images, n)


def _short(step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """What status.json says of a score."""
    names = ("fd", "kid", "kid_error", "protocol")
    return {"step": step, **{name: figures.get(f"score_{name}") for name in names}}
