"""The commands that pictures are said to be made with are those that make them."""

import re
import shlex
from pathlib import Path

import pytest

from docs import make

ROOT = Path(make.__file__).parents[1]
IMAGES = ROOT / "docs" / "images.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for file, heading in re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        target = page.parent / file if file else page
        assert target.exists(), file
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], heading


def test_what_docs_images_prints_is_what_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def ganctl(*words: str) -> str:
        made.append(shlex.join(words))
        return "CKPT"

    monkeypatch.setattr(make, "ganctl", ganctl)
    monkeypatch.setattr(make, "DOCS", Path())
    monkeypatch.setattr(make.curves, "draw", lambda _: b"")
    make.write_clothes(Path("FOLDER"))
    make.write_memorising(Path("FOLDER"))
    shown = re.findall(r"^ganctl (.*CKPT.*|.*FOLDER.*)$", IMAGES.read_text(), re.MULTILINE)
    assert [words.replace(" --out clothes.png --force", "") for words in made] == shown


def test_the_scores_of_the_readme_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {"precision": 0.5, "recall": 0.25, "density": 1.5, "coverage": 0.125}
    readme = make.README.read_text()
    monkeypatch.setattr(make, "README", tmp_path / "README.md")
    make.README.write_text(readme)
    found = {"fd": 12.34, "kid": 0.1, "kid_error": 0.02, **shares}
    make.write_scores({"scores": [found], "floor": found | {"fd": 5.0}})
    written = make.README.read_text()
    figures = "0.1000 ± 0.0200 | 0.500 | 0.250 | 1.500 | 0.125 |"
    assert f"| `faces32`, 3,500 steps | 12.3 | {figures}\n" in written
    assert f"| real images: the floor | 5.0 | {figures}\n" in written
    assert len(written.splitlines()) == len(readme.splitlines())
