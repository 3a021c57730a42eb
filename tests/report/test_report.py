"""`ganctl report`: one file that opens anywhere, of runs in any state, and changes none of them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.progress import Progress
from ganctl.report import account, document, inside, pictures, scores
from ganctl.report.inside import Inside
from ganctl.store import runs
from tests.browser import Browser
from tests.cli.test_cli import TINY, tree

Capture = pytest.CaptureFixture[str]
HOSTILE = '"><img src=x onerror=alert(1)>&amp;'
LOGGED = ["--set", "train.log_every=1", "--set", "train.preview_every=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two previews and an alarm, which each test gets a copy of."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "photos").mkdir()
    for number in range(12):
        draw_face(number, 40).save(folder / "photos" / f"{number:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANCTL_CACHE", str(folder / "cache"))
        options = ["--data", str(folder / "photos"), *TINY, *LOGGED]
        assert main(["train", *options, "--run", str(folder / "run")]) == 0
    found = runs.find(folder / "run")
    found.journal.record("alarm", 2, name="mode collapse", evidence="all <b>alike</b>")
    return folder / "run"


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A copy of that run; its networks are looked at once for all tests."""
    monkeypatch.setattr(inside, "look", seen_once)
    shutil.copytree(trained, "run", symlinks=True)
    capsys.readouterr()
    return Path("run")


LOOK, SEEN = inside.look, dict[bytes, Inside]()


def seen_once(path: Path, progress: Progress) -> Inside:
    """What a checkpoint shows, which is a function of its bytes."""
    content = path.read_bytes()
    if content not in SEEN:
        SEEN[content] = LOOK(path, progress)
    return SEEN[content]


def report(*sources: str) -> str:
    assert main(["report", *sources, "--out", "x.html", "--force"]) == 0
    return Path("x.html").read_text()


def test_a_report_has_everything_and_changes_nothing(run: Path, capsys: Capture) -> None:
    before = tree(run)
    made = report("run")
    assert tree(run) == before
    assert capsys.readouterr().out == "x.html\n"
    for title in (
        "What was trained", "How the images came", "Curves", "What happened", "Images", "Where attention looks",
        "What the weights do", "Make it again", "done, step 2 of 2", "g.stages.0.conv", "alarm: mode collapse",
    ):  # fmt: skip
        assert title in made, title
    assert "ganctl train --preset faces32 --data " in made
    assert all(f"model.{name}" in made for name in ("width 8", "latent_dim 8"))
    assert not re.search(r"(src|href)=['\"]?(http|//)", made)


def test_scores_are_told_with_their_protocol_and_are_a_line(run: Path, browser: Browser) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{**rows[0], "step": step} for step in range(1, 6)]
    for row in rows[::2]:
        row |= {"score_kid": 0.01 * row["step"], "score_protocol": "lite0: <b>50 images</b>"}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    floor = {"images": 25, "fd": 4.25, "kid": 0.001, "kid_error": 0.0002, "precision": 0.9}
    journal = runs.find(run).journal
    journal.record("scored", 5, protocol={"real_images": 50}, floor=floor)
    made = report("run")
    assert "Scores at step 5" in made and "lite0: &lt;b&gt;50 images&lt;/b&gt;" in made
    told = re.sub("<[^>]*>", "|", made)
    assert "KID (lite0)||0.05||0.001 \u00b1 0.0002|" in told
    assert "precision||-||0.9|" in told
    assert "one half of the real images against the other, 25 each" in told
    browser.open(Path("x.html"))
    lines = """[...document.querySelectorAll('[data-panel]')].filter((f) => f.textContent.startsWith('kernel distance'))
        .map((f) => f.querySelector('path').getAttribute('d').split('L').length)[0]"""
    assert browser.evaluate(lines) == 3


def test_a_floor_that_is_not_there_or_damaged_is_told(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "score_kid": 0.5, "score_protocol": "x"}\n')
    runs.find(run).journal.record("scored", 4, floor={"kid": 1.0})  # another step's
    told = account.account_of(runs.find(run))
    for event, words in (
        (told.scored, "The floor was not measured by this run; `ganctl score` measures it."),
        ({"floor": None}, "too few real images"),
        ({"floor": "<b>", "protocol": 3}, "too few real images"),
        ({"floor": {"kid": "<b>", "images": float("inf")}}, "too few real images"),
    ):
        made = scores.table(told._replace(scored=event))
        assert words in made
        assert "<b>" not in made


def test_that_something_is_left_out_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_once(run / "ckpt.pt", lambda done, total: None)
    bare = seen._replace(layers=seen.layers._replace(chains={}, lower={}))
    monkeypatch.setattr(inside, "look", lambda path, progress: bare)
    monkeypatch.setattr(document, "MOST_EVENTS", 2)
    made = report("run")
    assert "Of networks with more than 1,000,000 weights" in made
    assert "Older ones are left out: 1." in made


def test_the_commands_make_the_same_settings_again(run: Path) -> None:
    import html
    import shlex

    line = re.search(r"<pre>(ganctl train [^\n]*)", report("run"))
    assert line is not None
    words = shlex.split(html.unescape(line[1]))[1:]
    assert main([*words, "--run", "again"]) == 0
    assert (Path("again") / "config.yaml").read_text() == (run / "config.yaml").read_text()


def test_it_opens_without_a_request_and_its_slider_and_curves_work(
    run: Path, browser: Browser
) -> None:
    report("run")
    browser.open(Path("x.html"))
    assert browser.problems() == []
    assert browser.evaluate("document.querySelectorAll('[data-panel] svg').length") >= 12
    assert browser.evaluate("document.querySelectorAll('.mark').length") >= 10
    move = """(() => { const input = document.getElementById('when'), image = document.getElementById('preview-0');
        const before = image.src; input.value = 0; input.dispatchEvent(new Event('input'));
        return [before !== image.src, image.alt, document.getElementById('preview-step-0').textContent]; })()"""
    assert browser.evaluate(move) == [True, "Generated images at step 1", "1"]
    press = """(() => { const svg = document.querySelector('[data-panel] svg'); svg.focus();
        svg.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true}));
        return svg.parentElement.querySelector('.readout').textContent; })()"""
    assert "alarm: mode collapse: all <b>alike</b>" in browser.evaluate(press)
    decoded = "Promise.all([...document.images].map((image) => image.decode())).then(() => document.images.length)"
    assert browser.evaluate(decoded) >= 5
    assert browser.evaluate("[...document.images].every((image) => image.alt)")


def test_a_failure_after_the_last_figures_is_marked(run: Path, browser: Browser) -> None:
    before = "document.querySelector('[data-panel] svg').querySelectorAll('.mark').length"
    report("run")
    browser.open(Path("x.html"))
    marks = browser.evaluate(before)
    runs.find(run).journal.record("failed", 49, reason="out of memory")
    report("run")
    browser.open(Path("x.html"))
    assert browser.evaluate(before) == marks + 1
    last = "[...document.querySelectorAll('[data-panel] svg .mark')].map((m) => Number(m.getAttribute('x1')))"
    assert max(browser.evaluate(last)) <= 480


def test_it_is_no_wider_than_a_phone_or_a_screen(run: Path, browser: Browser) -> None:
    report("run")
    for width in (360, 1300):
        browser.open(Path("x.html"), width=width)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_long_reason_leaves_room_for_when_it_was(run: Path, browser: Browser) -> None:
    runs.find(run).journal.record("failed", 2**61, reason="the disk is full, " * 60)
    assert "the disk is full" * 30 not in report("run").replace(", ", "")
    browser.open(Path("x.html"), width=360)
    for kind in ("what", "when"):
        widths = f"[...document.querySelectorAll('td.{kind}')].map((cell) => cell.clientWidth)"
        assert min(browser.evaluate(widths)) > 90


def test_hostile_names_are_text(run: Path, browser: Browser) -> None:
    hostile = run.rename(HOSTILE)
    found = runs.find(hostile)
    found.journal.record("alarm", 1, name="</script><script>alert(2)</script>", evidence="\x1b[31m")
    with (hostile / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"step": 3, "d_loss": 1.0, "</script><b>": 2.0, "gamma": {"<i>": 0.5}})
            + "\n"
        )
    made = report(str(hostile))
    assert "<img src=x" not in made and "<script>alert" not in made and "\x1b" not in made
    browser.open(Path("x.html"))
    assert browser.problems() == []
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.evaluate("document.querySelectorAll('b, i, img[onerror]').length") == 0
    assert browser.evaluate("document.querySelectorAll('script:not([type])').length") == 1


def no_previews(run: Path) -> None:
    shutil.rmtree(run / "samples")


def no_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def damaged_metrics(run: Path) -> None:
    lines = [
        b'{"step": 1, "d_loss": NaN, "g_loss": 1e400}', b'{"step": 2, "d_loss"', b"\xff\xfe", b"[]",
        b'{"step": 3, "d_loss": "x", "gamma": 3, "alarms": 7}', b'{"step": 4, "d_loss": 1e300, "g_loss": -1e300}',
        b'{"step": 5, "d_loss": 1}',
    ]  # fmt: skip
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines))
    (run / "history.jsonl").write_bytes(
        b'{"event": 1, "step": 1}\n{"event": "alarm", "step": 1}\n{'
    )
    (run / "status.json").write_bytes(b"{")


def no_metrics(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "history.jsonl").unlink()


def damaged_pictures(run: Path) -> None:
    for path in (run / "samples").iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n")


def damaged_config(run: Path) -> None:
    (run / "config.yaml").write_text("{")


def running(run: Path) -> None:
    runs.find(run).journal.set_status("running", 2)


@pytest.mark.parametrize(
    "harm", [no_previews, no_checkpoints, damaged_metrics, no_metrics, damaged_pictures, damaged_config, running],
    ids=lambda harm: harm.__name__,
)  # fmt: skip
def test_a_run_in_any_state_is_reported(run: Path, harm: object, browser: Browser) -> None:
    assert callable(harm)
    harm(run)
    report("run")
    browser.open(Path("x.html"))
    assert browser.problems() == []
    assert browser.evaluate("document.documentElement.dataset.ready") == "yes"


def test_several_runs_stand_side_by_side(run: Path, browser: Browser) -> None:
    shutil.copytree(run, "other")
    report("run", "other")
    browser.open(Path("x.html"))
    assert browser.problems() == []
    assert browser.evaluate("document.querySelectorAll('[id^=preview-]:is(img)').length") == 2
    first = browser.evaluate(
        "document.querySelector('[data-panel] svg').querySelectorAll('path').length"
    )
    assert first == 2


def test_pictures_fit_into_what_they_may_take() -> None:
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    )
    sizes = [len(pictures.encoded(noise, most)) for most in (10**6, 100_000, 10_000)]
    assert sizes[1] <= 1.4 * 100_000 and sizes[2] <= 1.4 * 10_000
    assert sizes == sorted(sizes, reverse=True)


def test_previews_are_spread_over_all_steps() -> None:
    many = [(step, Path(str(step))) for step in range(600)]
    chosen = [step for step, _ in pictures.spread(many, 48)]
    assert len(chosen) == 48
    assert (chosen[0], chosen[-1]) == (0, 599)
    assert max(np.diff(chosen)) <= 14
    assert pictures.spread(many[:3], 48) == many[:3]


def test_mistakes_are_one_sentence(run: Path, capsys: Capture) -> None:
    Path("x.html").write_text("")
    for command, code, message in (
        (["report", "run", "--out", "x.pdf"], 2, "--out is x.pdf, but a report is an .html file"),
        (["report", "run", "--out", "x.html"], 2, "x.html exists"),
        (["report", "nowhere"], 3, "there is no run nowhere"),
        (["report", *["run"] * 9], 2, "9 runs are too many for one report (at most 8)"),
    ):
        assert main(command) == code
        assert f"error: {message}" in capsys.readouterr().err
