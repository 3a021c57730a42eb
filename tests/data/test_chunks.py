"""Decoding by several processes: the same pixels, one copy of the source, and how they end."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.cache import cache_folder
from ganctl.data import chunks
from ganctl.data.decoding import fit
from ganctl.data.packing import pack
from ganctl.data.sources import FaceSource, open_source
from ganctl.errors import DataError


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a few images are shared out between two processes."""
    monkeypatch.setattr(chunks, "ALONE", 0)
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_workers_give_the_same_pixels_as_one_process(
    photos: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    alone = pack(open_source(str(photos), 32), 32, None, ignore).images[:]
    (photos / "00broken.png").write_bytes(b"nothing")
    monkeypatch.setenv("GANCTL_CACHE", str(photos.parent / "second"))
    request.getfixturevalue("two_workers")
    together = pack(open_source(str(photos), 32), 32, None, ignore)
    assert np.array_equal(together.images, alone)
    assert [entry.name for entry in together.skipped] == ["00broken.png"]


class Counted(FaceSource):
    """Counts how often it is made ready to be sent to another process."""

    sent = 0

    def __getstate__(self) -> dict[str, object]:
        type(self).sent += 1
        return self.__dict__


@pytest.mark.usefixtures("two_workers")
def test_the_source_is_pickled_once_whatever_the_number_of_chunks() -> None:
    assert len(pack(Counted(20, 16), 4, None, ignore).images) == 20
    assert Counted.sent == 1


class Unreadable(FaceSource):
    """Some images are damaged, two of them a whole chunk."""

    damaged = (0, 6, 7, 13)

    def read(self, index: int) -> Image.Image:
        if index in self.damaged:
            raise ValueError("damaged")
        return super().read(index)


@pytest.mark.usefixtures("two_workers")
def test_images_close_up_over_those_left_out_and_the_fingerprint_is_of_what_remains() -> None:
    faces = FaceSource(20, 16)
    result = pack(Unreadable(20, 16), 4, None, ignore)
    assert [entry.name for entry in result.skipped] == [f"face {i}" for i in Unreadable.damaged]
    expected = [fit(faces.read(i), 4, None) for i in range(20) if i not in Unreadable.damaged]
    assert np.array_equal(result.images, np.stack(expected))
    assert result.fingerprint == hashlib.sha256(result.images[:].tobytes()).hexdigest()


class Greedy(FaceSource):
    """There is no memory for its images."""

    def read(self, index: int) -> Image.Image:
        raise MemoryError


@pytest.mark.usefixtures("two_workers")
def test_an_error_that_is_not_the_images_reaches_the_caller() -> None:
    with pytest.raises(MemoryError):
        pack(Greedy(20, 16), 4, None, ignore)


def test_workers_end_with_their_parent_however_it_ends() -> None:
    """They hold its standard output open as long as they live, and so does what starts them."""
    victim = Path(__file__).with_name("packing_victim.py")
    with subprocess.Popen([sys.executable, victim], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read(1) == b"."
        parent.kill()
        parent.communicate(timeout=120)


class Fatal(FaceSource):
    """Reading it kills the process, as the system does when memory runs out."""

    def read(self, index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.usefixtures("two_workers")
def test_a_decoding_process_that_is_killed_is_one_sentence() -> None:
    with pytest.raises(DataError, match="a process that was decoding images died"):
        pack(Fatal(8, 16), 4, None, ignore)
    assert not list((cache_folder() / "packed").iterdir())


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    """As in an example of three lines that is typed into a file."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import os\nos.cpu_count = lambda: 2\nprint('running')\n"
        "from ganctl.data.packing import pack\nfrom ganctl.data.sources import FaceSource\n"
        "print(len(pack(FaceSource(1100, 8), 4, None, lambda *_: None).images))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("running\n1100\n", "")


@pytest.mark.usefixtures("two_workers")
def test_workers_are_deaf_to_ctrl_c_and_the_parent_is_not() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    with chunks._for_workers_only():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
