"""What can be wrong with the files a command is given: its exit code, its one sentence, no change.

One table: what is done to a finished run or its surroundings, the command, the exit code, the
sentence. After each command the run's folder is what it was before it.
"""

import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ganctl.cli.app import main
from ganctl.store import checkpoint, runs
from ganctl.store.durable import place_beside
from tests.cli.test_cli import TINY, tree
from tests.store.test_archive import HOSTILE, forge

Capture = pytest.CaptureFixture[str]
Setup = Callable[[Path], None]
SECONDS = 20  # a command on a bad file that takes longer hangs: none is meant to take one second


def name_of(value: object) -> str:
    """A part of a test's name, which every process of a test run must give alike."""
    return "" if callable(value) else str(value)[:40]


@pytest.fixture
def run(photos: Path, trained: Callable[..., None]) -> Path:
    """A tiny run in ./run, with checkpoints of steps 1 and 2."""
    every = ["--set", "train.checkpoint_every=1"]
    trained("--data", str(photos), *TINY, *every, "--run", "run")
    return Path("run")


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    def hung(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, hung)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-000000002.pt"


def write(name: str, content: bytes | str) -> Setup:
    def setup(run: Path) -> None:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)

    return setup


def cut(length: Callable[[int], int]) -> Setup:
    def setup(run: Path) -> None:
        content = newest(run).read_bytes()
        Path("x.pt").write_bytes(content[: length(len(content))])

    return setup


def changed(change: Callable[[bytes], bytes]) -> Setup:
    def setup(run: Path) -> None:
        Path("x.pt").write_bytes(change(newest(run).read_bytes()))

    return setup


def flipped(run: Path) -> None:
    content = bytearray(newest(run).read_bytes())
    content[len(content) // 3] ^= 4
    Path("x.pt").write_bytes(content)


def rewritten(change: Callable[[checkpoint.Payload, checkpoint.Metadata], None]) -> Setup:
    """A file with a right digest whose contents were changed."""

    def setup(run: Path) -> None:
        payload, metadata = checkpoint.read(newest(run))
        del payload["metadata"]
        change(payload, metadata)
        with Path("x.pt").open("x+b") as file:
            checkpoint._write_archive(file, payload, metadata)

    return setup


def without(section: str, name: str) -> Setup:
    return rewritten(lambda payload, _: payload[section].pop(name))


def with_tensor(name: str, value: torch.Tensor) -> Setup:
    return rewritten(lambda payload, _: payload["generator_ema"].__setitem__(name, value))


def with_width(run: Path) -> None:
    rewritten(lambda _, metadata: metadata["config"]["model"].update(width=512))(run)


def state_dict(run: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), "x.pt")


def legacy(run: Path) -> None:
    torch.save({"a": torch.ones(2)}, "x.pt", _use_new_zipfile_serialization=False)


def hostile(kind: str) -> Setup:
    def setup(run: Path) -> None:
        forge(Path("x.pt"), *HOSTILE[kind][:2])

    return setup


def damage(*steps: int) -> Setup:
    def setup(run: Path) -> None:
        for step in steps:
            path = run / "checkpoints" / f"step-{step:09}.pt"
            path.write_bytes(path.read_bytes()[:-1])

    return setup


def edited(old: str, new: str) -> Setup:
    def setup(run: Path) -> None:
        path = run / "config.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return setup


def nothing_saved(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()


def nothing_left(run: Path) -> None:
    nothing_saved(run)
    (run / "config.yaml").unlink()


def newest_of_a_newer_format(run: Path) -> None:
    rewritten(lambda _, metadata: metadata.update(version=99))(run)
    Path("x.pt").replace(newest(run))


def link_to_nothing(run: Path) -> None:
    newest(run).unlink()


def photos_gone(run: Path) -> None:
    (run.resolve().parent.parent / "photos").rename("gone")


def as_zip(*members: tuple[str, bytes]) -> Setup:
    def setup(run: Path) -> None:
        with zipfile.ZipFile("d.zip", "w") as archive:
            for name, content in members:
                archive.writestr(name, content)

    return setup


def another_zip(run: Path) -> None:
    with zipfile.ZipFile("x.pt", "w") as archive:
        archive.writestr("a", b"")


def in_a_folder(name: str) -> Setup:
    def setup(run: Path) -> None:
        Path("d").mkdir()
        (Path("d") / name).write_text("x")

    return setup


def nothing(run: Path) -> None:
    pass


BIAS = "to_rgb.bias"
CHECKPOINTS: list[tuple[str, Setup, str]] = [
    ("missing", nothing, "there is no checkpoint x.pt"),
    ("a folder", lambda run: Path("x.pt").mkdir(), "x.pt is not a run's folder"),
    ("a pipe", lambda run: os.mkfifo("x.pt"), "x.pt is not a regular file"),
    ("a device", lambda run: Path("x.pt").symlink_to("/dev/zero"), "x.pt is not a regular file"),
    ("a loop of links", lambda run: Path("x.pt").symlink_to("x.pt"), "there is no checkpoint x.pt"),
    ("empty", write("x.pt", b""), "x.pt is not a ganctl checkpoint: it is no zip"),
    ("one byte", write("x.pt", b"P"), "x.pt is not a ganctl checkpoint: it is no zip"),
    ("text", write("x.pt", "hello\n"), "x.pt is not a ganctl checkpoint: it is no zip"),
    ("a web page", write("x.pt", "<!DOCTYPE html>"), "x.pt is not a ganctl checkpoint: it is no zip"),
    ("a picture", write("x.pt", b"\x89PNG\r\n\x1a\n"), "x.pt is not a ganctl checkpoint: it is no zip"),
    ("zip magic alone", write("x.pt", b"PK\x03\x04"), "x.pt is not a ganctl checkpoint, or is truncated"),
    ("half", cut(lambda n: n // 2), "x.pt is not a ganctl checkpoint, or is truncated"),
    ("less one byte", cut(lambda n: n - 1), "x.pt is damaged: its SHA-256 is not at its end"),
    ("less its digest", cut(lambda n: n - 64), "x.pt is damaged: its SHA-256 is not at its end"),
    ("less its digest and mark", cut(lambda n: n - 78), "x.pt is damaged: its SHA-256 is not at its end"),
    ("a flipped bit of the mark", changed(lambda c: c[:-78] + bytes([c[-78] ^ 1]) + c[-77:]), "x.pt is damaged: its SHA-256 is not at its end"),
    ("zeros after its end", changed(lambda c: c + bytes(999)), "x.pt is damaged: its SHA-256 is not at its end"),
    ("a flipped bit", flipped, "x.pt is damaged: its SHA-256 does not match"),
    ("a plain state dictionary", state_dict, "x.pt is not a ganctl checkpoint, or is truncated"),
    ("torch's old format", legacy, "x.pt is not a ganctl checkpoint: it is no zip"),
    ("another zip", another_zip, "x.pt is not a ganctl checkpoint"),
    *((kind, hostile(kind), "x.pt cannot be loaded safely: it has") for kind in HOSTILE),
    ("a newer format", rewritten(lambda _, m: m.update(version=99)), "x.pt was written by a newer ganctl (format 99; this one reads 1)"),
    ("no version", rewritten(lambda _, m: m.pop("version")), "x.pt was written by a newer ganctl"),
    ("another program's", rewritten(lambda _, m: m.update(format="x")), "x.pt is not a ganctl checkpoint"),
    ("metadata of another kind", rewritten(lambda _, m: m.update(step="7")), "x.pt: its metadata is bad at step"),
    ("a setting out of range", rewritten(lambda _, m: m["config"]["model"].update(width=10**9)), "x.pt: its metadata is bad at config.model.width"),
    ("networks larger than the file", with_width, "x.pt: generator has"),
    ("a missing tensor", without("generator_ema", BIAS), f"x.pt: generator_ema: {BIAS} is missing"),
    ("a missing u", without("generator", "stem.parametrizations.weight.0.u"), "x.pt: generator: stem.parametrizations.weight.0.u is missing"),
    ("an extra tensor", with_tensor("extra", torch.ones(1)), "x.pt: generator_ema: extra is missing or unexpected"),
    ("a misshapen tensor", with_tensor(BIAS, torch.ones(4)), f"x.pt: generator_ema.{BIAS} is torch.float32 (4,)"),
    ("double precision", with_tensor(BIAS, torch.ones(3).double()), f"x.pt: generator_ema.{BIAS} is torch.float64"),
    ("NaN", with_tensor(BIAS, torch.full((3,), torch.nan)), f"x.pt: generator_ema.{BIAS} has values that are not finite"),
    ("no tensor", rewritten(lambda p, _: p["generator_ema"].update({BIAS: 1})), f"x.pt: generator_ema.{BIAS} is no tensor"),
    ("a missing network", rewritten(lambda p, _: p.pop("generator_ema")), "x.pt: generator_ema"),
]  # fmt: skip


FOREIGN = {  # what `inspect-sn` says of files that may be another program's
    **dict.fromkeys(["empty", "one byte", "text", "a web page", "a picture"], "x.pt is no file of torch.save: it is no zip"),
    **dict.fromkeys(["zip magic alone", "half"], "x.pt is damaged or cut short"),
    "torch's old format": "x.pt is of the format that PyTorch had before 1.6",
    "another zip": "x.pt cannot be loaded safely: it has a member called 'a'",
}  # fmt: skip


@pytest.mark.parametrize("command", ["sample", "inspect-sn", "inspect-attention"])
@pytest.mark.parametrize(("kind", "setup", "message"), CHECKPOINTS, ids=name_of)
def test_a_bad_checkpoint_is_exit_3_and_one_sentence(
    run: Path, capsys: Capture, command: str, kind: str, setup: Setup, message: str
) -> None:
    setup(run)
    if command == "inspect-sn":
        if kind == "a plain state dictionary":
            return  # it opens these: see test_inspect_sn.py
        message = FOREIGN.get(kind, message)
    refused(run, [command, "x.pt"], 3, message, capsys)
    assert not list(Path().glob("*.png"))


TRAINED = {  # what only `resume` looks at
    "another step inside": (lambda p, _: p.update(step=1), "contradicts itself: it is of step 1 and 2"),
    "no moments": (lambda p, _: p["d_optimizer"].update(state={}), "d_optimizer has the moments of 0 of"),
    "a moment missing": (lambda p, _: p["g_optimizer"]["state"].pop(0), "g_optimizer has the moments of"),
    "a count that is NaN": (lambda p, _: p["g_optimizer"]["state"][0].update(step=torch.tensor(torch.nan)), "step of parameter 0"),
    "another group": (lambda p, _: p["g_optimizer"]["param_groups"][0].update(params=[0]), "does not fit"),
    "two groups": (lambda p, _: p["g_optimizer"]["param_groups"].append({}), "g_optimizer is not the state of an Adam optimizer"),
    "no step": (lambda p, _: p.update(step="2"), "step is '2', not a count"),
    "NaN": (lambda p, _: p["generator"][BIAS].fill_(torch.nan), f"generator.{BIAS} has values that are not finite"),
    "another program's": (lambda _, m: m["config"]["model"].update(width="x"), "its metadata is bad at config.model.width"),
    "a number among the names": (lambda p, _: p["generator"].update({7: 1}), "generator: 7 is missing or unexpected"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRAINED)
def test_a_checkpoint_that_contradicts_itself_is_not_resumed(
    run: Path, capsys: Capture, kind: str
) -> None:
    change, message = TRAINED[kind]
    rewritten(change)(run)
    Path("x.pt").replace(newest(run))
    before = tree(run)
    assert main(["resume", "run", "--steps", "4"]) == 3
    said = capsys.readouterr().err
    assert message in said
    hint = (
        "hint: move run/checkpoints/step-000000002.pt away, and `ganctl resume run` takes what was"
    )
    assert hint in said
    after = tree(run)
    for files in (before, after):
        files.pop("run/LOCK", None)
    assert after == before


RUNS: list[tuple[str, Setup, list[str], int, str]] = [
    ("all damaged", damage(1, 2), ["resume", "run"], 3, "run has no usable checkpoint (2 skipped)"),
    ("all damaged, sampled", damage(1, 2), ["sample", "run"], 3, "run has no usable checkpoint"),
    ("nothing saved, sampled", nothing_saved, ["sample", "run"], 3, "run has no usable checkpoint (nothing saved yet)"),
    ("nothing saved, and no settings", nothing_left, ["resume", "run"], 2, "there is no preset file run/config.yaml"),
    ("a newer format", newest_of_a_newer_format, ["resume", "run", "--steps", "4"], 3, "run/checkpoints/step-000000002.pt was written by a newer ganctl"),
    ("a newer format, sampled", newest_of_a_newer_format, ["sample", "run"], 3, "run/checkpoints/step-000000002.pt was written by a newer ganctl"),
    ("a link to a checkpoint that is gone", link_to_nothing, ["sample", "run/ckpt.pt"], 3, "there is no checkpoint run/ckpt.pt"),
    ("the home of nobody", nothing, ["train", "--data", "~nosuch/x"], 4, "there are no images at ~nosuch/x"),
    ("the home of nobody, tried", nothing, ["train", "--data", "~nosuch/x", "--dry-run"], 4, "there are no images at ~nosuch/x"),
    ("the home of nobody, seen", nothing, ["inspect-attention", "run", "--data", "~nosuch/x"], 4, "there are no images at ~nosuch/x"),
    ("images with a long name", nothing, ["train", "--data", "x" * 300], 4, "there are no images at xxx"),
    ("a run with a long name", nothing, ["train", "--run", "x" * 300], 5, "cannot write to xxx"),
    ("a run in a loop of links", lambda run: Path("loop").symlink_to("loop"), ["train", "--data", "run", "--run", "loop/x"], 5, "cannot write to loop/x"),
    ("a run that is a link to nothing", lambda run: Path("loop").symlink_to("nothing"), ["train", "--data", "run", "--run", "loop"], 5, "cannot write to loop"),
    ("a preset with a long name", nothing, ["train", "--preset", "x" * 300 + ".yaml"], 2, "there is no preset file xxx"),
    ("extends a long name", write("c.yaml", "extends: " + "x" * 300 + ".yaml\n"), ["train", "--preset", "c.yaml"], 2, "there is no preset file xxx"),
    ("a preset that is a pipe", lambda run: os.mkfifo("c.yaml"), ["train", "--preset", "c.yaml"], 2, "there is no preset file c.yaml"),
    ("images that are a pipe", lambda run: os.mkfifo("d"), ["train", "--data", "d"], 4, "there are no images at "),
    *((f"a long name to write to, {command[0]}", nothing, [*command, "x" * 300 + ".png"], 5, "cannot write xxx")
      for command in (["sample", "run", "--out"], ["plot", "run", "--out"], ["inspect-attention", "run", "--out"], ["inspect-sn", "run", "--plot"])),
    ("a folder with a long name", nothing, ["sample", "run", "--out", "x" * 300], 5, "cannot write xxx"),
    *((f"a network called {name}", nothing, ["export", "run", "--to", "safetensors", "--out", name], 2, f"--to safetensors makes a .safetensors file, but --out is {name}") for name in ("/", ".", "..")),
    ("a folder of runs with a long name", nothing, ["runs", "x" * 300], 3, "there is no run in xxx"),
    ("a picture called .", nothing, ["inspect-attention", "run", "--out", "."], 2, "the picture is a PNG file, but --out is ."),
    ("run.json damaged", write("run/run.json", "{"), ["resume", "run"], 3, "run/run.json is damaged"),
    ("run.json of another kind", write("run/run.json", "[]"), ["resume", "run"], 3, "run/run.json is damaged"),
    ("a fixed setting edited", edited("g_lr: 0.0008", "g_lr: 0.01"), ["resume", "run", "--steps", "4"], 2, "run/config.yaml: optim.g_lr is 0.01, but the run was trained with 0.0008"),
    ("config.yaml damaged", edited("g_lr: 0.0008", "g_lr: ["), ["resume", "run", "--steps", "4"], 2, "run/config.yaml:"),
    ("fewer steps than there are", nothing, ["resume", "run", "--steps", "0"], 2, "train.steps is 0"),
    ("fewer steps than it has", nothing, ["resume", "run", "--steps", "1"], 2, "run is at step 2 already, beyond train.steps 1"),
    ("the images are gone", photos_gone, ["resume", "run", "--steps", "4"], 4, "there are no images at"),
    ("a run that exists", nothing, ["train", "--run", "run"], 6, "run holds a run already"),
    ("a file as a run", write("file", ""), ["train", "--run", "file"], 2, "--run file is a file"),
    ("a run below a file", write("file", ""), ["train", "--run", "file/run"], 5, "cannot write to file/run: Not a directory"),
    ("a name that is too long", nothing, ["resume", "x" * 300], 3, "there is no run x"),
    ("a name that is too long, without its option", nothing, ["train", "x" * 300], 2, "`ganctl train` does not take 'x"),
    ("a checkpoint's name that is too long", nothing, ["sample", "x" * 300 + ".pt"], 3, "there is no checkpoint x"),
    ("an unknown device", nothing, ["resume", "run", "--steps", "4", "--device", "x"], 2, "there is no device 'x'"),
    ("no pictures", lambda run: Path("d").mkdir(), ["train", "--data", "d"], 4, "there are no images in "),
    ("only text", in_a_folder("a.txt"), ["train", "--data", "d"], 4, "there are no images in "),
    ("only damaged pictures", in_a_folder("a.png"), ["train", "--data", "d"], 4, "1 of 1 images cannot be read"),
    ("a broken zip", write("d.zip", b"PK\x03\x04junk"), ["train", "--data", "d.zip"], 4, ""),
    ("a zip that climbs out", as_zip(("../../x.png", b"x")), ["train", "--data", "d.zip"], 4, ""),
    ("an absolute zip", as_zip(("/x.png", b"x")), ["train", "--data", "d.zip"], 4, ""),
    ("an empty zip", as_zip(), ["train", "--data", "d.zip"], 4, ""),
    ("an unknown key", write("c.yaml", "extends: faces32\noptim:\n  lr_g: 1\n"), ["train", "--preset", "c.yaml"], 2, "c.yaml:3: unknown setting optim.lr_g"),
    ("a tag", write("c.yaml", "a: !!python/object/apply:os.system [touch x]\n"), ["train", "--preset", "c.yaml"], 2, "c.yaml:1"),
    ("3,000 brackets", write("c.yaml", "a: " + "[" * 3000), ["train", "--preset", "c.yaml"], 2, "c.yaml"),
    ("a megabyte", write("c.yaml", "a: " + "1" * 10**6), ["train", "--preset", "c.yaml"], 2, "c.yaml"),
    ("UTF-16", write("c.yaml", "a: 1\n".encode("utf-16")), ["train", "--preset", "c.yaml"], 2, "c.yaml"),
    ("an empty file", write("c.yaml", ""), ["train", "--preset", "c.yaml"], 2, "c.yaml"),
    ("a list", write("c.yaml", "- 1\n"), ["train", "--preset", "c.yaml"], 2, "c.yaml"),
    ("a huge seed", nothing, ["train", "--set", "train.seed=1180591620717411303424"], 2, "--set: train.seed is 1.18"),
    ("not a number", nothing, ["train", "--set", "optim.g_lr=.nan"], 2, "--set: optim.g_lr is"),
    ("a negative rate", nothing, ["train", "--set", "optim.g_lr=-1"], 2, "--set: optim.g_lr is -1"),
    ("an odd size", nothing, ["train", "--set", "data.resolution=63"], 2, "--set: data.resolution is 63"),
    ("batch 0", nothing, ["train", "--batch-size", "0"], 2, "optim.batch_size is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "setup", "command", "code", "message"), RUNS, ids=name_of)
def test_a_bad_run_folder_image_or_setting_has_its_exit_code_and_one_sentence(
    run: Path, capsys: Capture, kind: str, setup: Setup, command: list[str], code: int, message: str
) -> None:
    setup(run)
    refused(run, command, code, message, capsys)
    assert not Path("runs").exists()


def refused(run: Path, command: list[str], code: int, message: str, capsys: Capture) -> None:
    """`command` ends with `code`, one error line, perhaps a hint, and changes nothing."""
    before = tree(run)
    signal.alarm(SECONDS)
    assert main(command) == code, capsys.readouterr().err
    signal.alarm(0)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "preparing"))]
    assert out == ""
    assert lines[0].startswith(f"error: {message}")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2
    assert "Traceback" not in err
    after = tree(run)
    after.pop("run/LOCK", None)
    before.pop("run/LOCK", None)
    assert after == before


def test_the_hint_of_a_checkpoint_that_is_of_no_use_can_be_followed(
    run: Path, capsys: Capture
) -> None:
    rewritten(lambda payload, _: payload["generator"].pop(BIAS))(run)
    Path("x.pt").replace(newest(run))
    assert main(["resume", "run", "--steps", "3"]) == 3
    newest(run).rename("away.pt")
    assert main(["resume", "run", "--steps", "3"]) == 0
    assert "going on with run from step 1" in capsys.readouterr().err


def test_a_link_to_a_checkpoint_that_is_gone_names_the_newest(run: Path, capsys: Capture) -> None:
    link_to_nothing(run)
    assert main(["sample", "run/ckpt.pt"]) == 3
    hint = "hint: the newest whole checkpoint of that run is run/checkpoints/step-000000001.pt"
    assert hint in capsys.readouterr().err


def test_a_newer_format_is_kept_whatever_is_saved(run: Path) -> None:
    """It is neither one of the whole ones nor an old one to be deleted."""
    rewritten(lambda _, metadata: metadata.update(version=99))(run)
    newer = run / "checkpoints" / "step-000000003.pt"
    Path("x.pt").replace(newer)
    opened = runs.find(run)
    payload, metadata = checkpoint.read(newest(run))
    for step in range(4, 9):
        opened.save(step, {**payload, "step": step}, {**metadata, "step": step}, keep=2)
    assert sorted(path.name for path in newer.parent.iterdir()) == [
        f"step-{n:09}.pt" for n in (3, 7, 8)
    ]


def test_good_rows_of_the_same_table(run: Path, capsys: Capture) -> None:
    """What must still work: a damaged newest file, leftovers, edits of what may be edited."""
    left = place_beside(newest(run), runs.find(run).run_id)
    left.write_bytes(b"half")
    edited("log_every: 50", "log_every: 1")(run)
    edited("steps: 2", "steps: 4")(run)
    damage(2)(run)
    damaged = newest(run).read_bytes()
    assert main(["resume", "run"]) == 0
    err = capsys.readouterr().err
    assert "warning: skipped: run/checkpoints/step-000000002.pt" in err
    assert "going on with run from step 1" in err
    assert newest(run).with_suffix(".damaged").read_bytes() == damaged
    assert not left.exists()
    assert [row.split(",")[0] for row in (run / "metrics.jsonl").read_text().splitlines()] == [
        f'{{"step": {step}' for step in (2, 3, 4)
    ]


def test_another_runs_checkpoint_is_not_resumed_and_not_deleted(
    run: Path, photos: Path, capsys: Capture
) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--run", "other"]) == 0
    stranger = run / "checkpoints" / "step-000000900.pt"
    stranger.write_bytes((Path("other") / "ckpt.pt").read_bytes())
    capsys.readouterr()
    assert main(["resume", "run", "--steps", "3"]) == 0
    assert "step-000000900.pt belongs to another run" in capsys.readouterr().err
    older = run / "checkpoints" / "step-000000000.pt"
    older.write_bytes(stranger.read_bytes())
    assert main(["resume", "run", "--steps", "9"]) == 0
    assert stranger.exists()
    assert older.exists()
    assert runs.find(run).newest_checkpoint().name == "step-000000009.pt"
