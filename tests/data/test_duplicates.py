"""Images that are there twice are found and named; those that differ in a pixel are not."""

from collections.abc import Callable
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganctl import session
from ganctl.data import duplicates
from ganctl.data.duplicates import groups_of_equal
from ganctl.settings.config import Config


@given(kinds=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_groups_are_those_of_a_plain_comparison(kinds: list[int]) -> None:
    """Kinds 4 and 5 differ in one pixel only, which is not among those that are compared first."""
    looks = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    looks[5] = looks[4]
    looks[5, 0, 0, 0] ^= 1
    expected = [[i for i, k in enumerate(kinds) if k == kind] for kind in range(6)]
    assert groups_of_equal(looks[kinds]) == sorted(group for group in expected if len(group) > 1)


def test_it_does_not_matter_how_many_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)[
        [0, 1, 0, 2, 3, 1, 1]
    ]
    monkeypatch.setattr(duplicates, "CHUNK", 3)
    assert groups_of_equal(images) == [[0, 2], [1, 5, 6]]


def test_a_start_names_them_though_files_before_them_cannot_be_read(
    tiny: Callable[..., Config], photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (photos / "00broken.png").write_bytes(b"no image")
    copy(photos / "05.png", photos / "z.png")
    copy(photos / "more" / "03.png", photos / "more" / "a.png")
    session.new(tiny(data__source=str(photos)), "cpu")
    assert "2 of 14 images are copies of others:" in caplog.text
    assert "  05.png = z.png" in caplog.text
    assert "  more/03.png = more/a.png" in caplog.text


def test_nothing_is_said_without_any(
    tiny: Callable[..., Config], photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session.new(tiny(data__source=str(photos)), "cpu")
    assert "copies" not in caplog.text
