"""The store against a model of it: saves, damage, other runs' files and restarts in any order."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ganctl.data.batches import Batches
from ganctl.errors import CheckpointError
from ganctl.settings import presets
from ganctl.store import checkpoint, runs
from ganctl.store.durable import place_beside


class Store(RuleBasedStateMachine):
    """Whatever happened, the newest whole file of the run is found and was never deleted.

    Of the whole files the last `keep` stay. One that rots after it was verified, without a trace in
    its size and date, counts among them until it is read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.run = runs.create(self.base / "run", "x", presets.load("faces32"))
        os.close(self.run._lock or 0)
        self.step = self.first = 10
        self.strangers: set[str] = set()
        self.whole: set[int] = set()  # steps whose files are there, undamaged
        self.verified: set[int] = set()  # of these, those that this process has read or written
        self.rotten: set[int] = set()  # verified by this process, and damaged without a trace since

    def path(self, step: int) -> Path:
        return self.run.checkpoints / f"step-{step:09}.pt"

    @rule(ahead=st.integers(1, 5), keep=st.integers(2, 4), keep_every=st.sampled_from([0, 4]))
    def save(self, ahead: int, keep: int, keep_every: int) -> None:
        self.step += ahead
        payload = {"generator": {"w": torch.full((2,), float(self.step))}, "step": self.step}
        self.run.save(self.step, payload, {"step": self.step}, keep, keep_every)
        self.rotten.discard(self.step)
        counted = sorted({*self.whole, *self.rotten, self.step}, reverse=True)
        milestones = {step for step in counted if keep_every and step % keep_every == 0}
        kept = {*counted[:keep], *milestones}
        there = {step for step in counted if self.path(step).exists()}
        assert kept <= there <= kept | self.rotten  # what no longer says whose it is stays
        self.whole = (self.whole | {self.step}) & kept
        self.verified = (self.verified | set(counted[:keep])) & self.whole
        self.rotten &= there

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.whole)))
        self.flip_a_bit(step, data, later=1)
        self.verified.discard(step)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.whole)))
        self.flip_a_bit(step, data, later=0)
        if step in self.verified:
            self.verified.discard(step)
            self.rotten.add(step)

    def flip_a_bit(self, step: int, data: st.DataObject, later: int) -> None:
        """Damage the file of `step`, and date it so many nanoseconds later than it was."""
        path = self.path(step)
        before = path.stat()
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))
        self.whole.discard(step)

    @precondition(lambda self: self.whole)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.whole)))
        self.path(step).unlink()
        self.whole.discard(step)
        self.verified.discard(step)

    @rule(name=st.sampled_from(["left by a kill", "step-x.pt", "notes.txt"]))
    def litter(self, name: str) -> None:
        path = self.run.checkpoints / name
        path = place_beside(path, self.run.run_id) if name == "left by a kill" else path
        path.write_bytes(b"half")

    @rule(step=st.sampled_from([1, 2, 3, 5, 1001, 1002]))
    def put_another_runs_file(self, step: int) -> None:
        if not self.path(step).exists():
            checkpoint.write(
                self.path(step), {"step": step}, {"run": {"id": "other"}, "step": step}
            )
            self.strangers.add(self.path(step).name)

    @invariant()
    def other_runs_files_are_left_alone(self) -> None:
        assert self.strangers <= {path.name for path in self.run.checkpoints.iterdir()}

    @rule()
    def start_again(self) -> None:
        self.run = runs.find(self.run.folder)
        self.run.sweep()
        assert not list(self.run.checkpoints.glob(".ganctl-*"))
        self.step = max(self.whole, default=self.first)
        self.verified, self.rotten = set(), set()

    @invariant()
    def the_newest_whole_file_is_found(self) -> None:
        try:
            found = checkpoint.read(self.run.newest_checkpoint())[0]["step"]
        except CheckpointError:
            found = None
        newest = max(self.whole, default=None)
        assert found == newest
        self.verified |= {newest} if newest is not None else set()
        self.rotten = {step for step in self.rotten if newest is not None and step < newest}

    def teardown(self) -> None:
        shutil.rmtree(self.base)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(1, 200), st.integers(0, 300))
@settings(deadline=None)
def test_the_order_of_images_is_a_permutation_each_epoch_and_resumes_anywhere(
    n: int, seed: int, count: int, start: int
) -> None:
    images = np.zeros((n, 1, 1, 3), np.uint8)
    stream = Batches(images, seed=seed, flip=False, dequantize=False, device=torch.device("cpu"))

    def drawn(position: int, size: int) -> list[int]:
        return [int(index) for index in stream.drawn(position, size)[0]]

    whole = drawn(0, start + count)
    assert drawn(start, count) == whole[start:]
    for epoch in range(len(whole) // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n]) == list(range(n))
