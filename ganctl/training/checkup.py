"""What is looked at each log interval, and when a failure mode begins; nothing changes a run."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ganctl.models import Generator
from ganctl.settings.config import Config
from ganctl.training.diagnosis import Diagnosis, diagnose
from ganctl.training.diversity import ClassDiversity, Diversity
from ganctl.training.inputs import Inputs
from ganctl.training.memorising import scores_of
from ganctl.training.metrics import Row, rounded
from ganctl.training.state import TrainState

IMAGES = 9_600  # in a window: enough for early oddities to be over, however low the rate is
TRAVEL = 0.24  # how far Adam may have moved each of G's weights before early oddities are over
FORGOTTEN = 10  # updates in units of 1 / momentum after which batch norm has forgotten its start


def window_of(config: Config) -> int:
    """Steps at a run's start that say nothing, and for which a sign must last from then on.

    Adam moves a weight by about its rate a step, so a run with a lower rate needs longer, but no
    more than IMAGES; and averaged generators mean nothing until the statistics of batch norm are
    those of real batches.
    """
    optim, momentum = config.optim, config.model.batch_norm_momentum
    begun = min(TRAVEL / optim.g_lr, IMAGES / optim.batch_size)
    return math.ceil(max(begun, FORGOTTEN / momentum))


class Checkup:
    """Completes rows of metrics.jsonl as they are made, and notices when a failure mode begins.

    All it remembers are the rows of the last window, which a resumed run reads back: they are the
    same however often it was interrupted. A row that a stop cut short has no say.
    """

    def __init__(self, config: Config, inputs: Inputs, rows: Iterable[Mapping[str, Any]]) -> None:
        """`rows` are those that the run has written so far."""
        self.config, self.inputs, self.window = config, inputs, window_of(config)
        self.diversity = Diversity(config, inputs.batches, inputs.n_classes)
        self.class_diversity = ClassDiversity(config, inputs.batches)
        self._rows: deque[Mapping[str, Any]] = deque()
        for row in rows:
            self._remember(row)
        self._names = {diagnosis.name for diagnosis in self._diagnose()}

    def complete(self, row: Row, state: TrainState, average: Generator) -> list[Diagnosis]:
        """Add how G and D do and alarms, which are what lasts, to `row`; returns what begins."""
        row["diversity"] = self.diversity.of(average)
        row["class_diversity"] = self.class_diversity.of(average)
        if (trial := self.inputs.trial_after(state.step)) is not None:
            scores = scores_of(state, trial, self.config)
            row["memorising"] = rounded(scores.memorising().item())
            row["memorising_auc"] = rounded(scores.auc().item())
        self._remember(row)
        found = self._diagnose()
        begun = [diagnosis for diagnosis in found if diagnosis.name not in self._names]
        self._names = {diagnosis.name for diagnosis in found}
        row["alarms"] = [diagnosis.name for diagnosis in found if diagnosis.alarming]
        return begun

    def _remember(self, row: Mapping[str, Any]) -> None:
        if row["step"] % self.config.train.log_every:
            return
        self._rows.append(row)
        while len(self._rows) > 1 and self._rows[1]["step"] <= row["step"] - self.window:
            self._rows.popleft()

    def _diagnose(self) -> list[Diagnosis]:
        return diagnose(self._rows, self.config.loss.kind, self.window)
