"""Random command lines: mostly right, so that they come far, with a few words that are not."""

from random import Random

from tests.fuzz.world import TINY

SOURCES = ["runs/one", "runs/one/ckpt.pt", "x.pt", "runs/one/checkpoints/step-000000001.pt", "one"]
FOREIGN = ["other.pth", "x.safetensors", "mine.yaml", "photos.zip", "photos", "photos/a/0.png"]
ODD = [  # no place outside of the world that can be written to
    ".", "..", "/proc", "/dev/null", "/dev/zero", "nowhere", "~nosuch/x", "~", "x" * 300, "a/" * 200 + "b", "-", "--", "",
    "\x1b[31mx", "é", "\udcff", "%s", "{}", "[bold]x", "runs", "runs/one/run.json", "loop",
]  # fmt: skip
NUMBERS = ["1", "2", "0", "-1", "3", "x", "", "1.5", "nan", "1e3", "99999999999999999999", "٣"]
DATA = ["photos", "photos.zip", "faces.zip", "photos/a", "mine.yaml", "x.pt", "runs/one/samples"]
# Nothing here makes a run large: what is out of range is so by far, the rest is small.
SETTINGS = {
    "data.crop": ["8", "null", "7", "40", "x"], "data.flip": ["true", "yes", "1"], "data.dequantize": ["true", "no"],
    "data.held_out": ["0", "0.5", "1", "-1"], "data.attribute": ["Smiling", "null", "[]"], "data.resolution": ["32", "33"],
    "model.width": ["8", "16", "9", "0", "1e9"], "model.attention.at": ["[]", "[16]", "[32]", "[16, 16]", "[x]", "16"],
    "model.architecture": ["convnet", "resnet", "x"], "model.conditional": ["true", "false", "1"],
    "loss.kind": ["hinge", "nonsaturating", "wasserstein", "x"], "loss.gradient_penalty": ["0", "10", "-1", ".inf"], "loss.r1": ["1", "x"],
    "optim.g_lr": ["1e-4", "1", "0", "2", ".nan"], "optim.betas": ["[0, 0.9]", "[0.5]", "[1, 1]", "{}"], "optim.grad_accumulation": ["1", "2", "3", "0"],
    "optim.lr_decay": ["[0, 9]", "[9, 0]", "null"], "optim.ema_half_life": ["1", "0"], "train.log_every": ["1", "0"],
    "train.checkpoint_every": ["1", "3"], "train.keep_checkpoints": ["2", "1"], "train.rollbacks": ["1"], "train.precision": ["bf16", "fp16", "fp32", "x"],
    "health.on_alarm": ["stop", "x"], "nosuch.x": ["1"], "": ["1"], "data": ["1"],
}  # fmt: skip


def command(chance: Random) -> list[str]:
    """A command line."""
    makers = [
        _train,
        _resume,
        _resume,
        _sample,
        _sample,
        _sample,
        _inspect_sn,
        _inspect_sn,
        _attention,
        _others,
        _others,
        _others,
    ]
    words = chance.choice(makers)(chance)
    if chance.random() < 0.15:
        words[chance.randrange(len(words))] = chance.choice([*ODD, *NUMBERS])
    if chance.random() < 0.05:
        words.insert(
            chance.randrange(len(words) + 1),
            chance.choice(["--help", "--json", "--force", "-n", "--seed", "--x", *ODD]),
        )
    return words


def _some(chance: Random, options: dict[str, list[str]], share: float = 0.3) -> list[str]:
    """Some of the options, each with one of its values; one without a value is a flag."""
    words: list[str] = []
    for name, values in options.items():
        if chance.random() < share:
            words += [name, chance.choice(values)] if values else [name]
    return words


def _source(chance: Random) -> list[str]:
    kinds = [SOURCES, SOURCES, SOURCES, FOREIGN, ODD]
    return [] if chance.random() < 0.1 else [chance.choice(chance.choice(kinds))]


def _out(chance: Random) -> list[str]:
    names = [
        "y.png",
        "y.npz",
        "y.zip",
        "y",
        "y.webp",
        "y.gif",
        "x.pt",
        "photos",
        "no/y.png",
        "runs/one/samples/y.png",
        "y.PNG",
        *ODD,
    ]
    return ["--out", chance.choice(names)] if chance.random() < 0.7 else []


def _train(chance: Random) -> list[str]:
    presets = ["faces32", "faces32", "mine.yaml", "sngan-cifar10-cond", "celba64", *ODD]
    data = chance.choice([*DATA, *DATA, *ODD])
    runs = ["runs/one", "r", "r", "r/r", "photos/r", "x.pt", *ODD]
    words = [
        "train",
        "--data",
        data,
        *TINY,
        "--steps",
        chance.choice(["1", "1", "2", "0"]),
        "--run",
        chance.choice(runs),
    ]
    words += _some(
        chance,
        {"--preset": presets, "--seed": NUMBERS[:5], "--device": ["auto", "cuda", "cuda:9", "tpu"]},
        0.2,
    )
    for _ in range(chance.choice([0, 0, 1, 2])):
        name = chance.choice(list(SETTINGS))
        words += ["--set", f"{name}={chance.choice(SETTINGS[name])}"]
    return words


def _resume(chance: Random) -> list[str]:
    options = {
        "--steps": ["3", "3", "1", "0", "-1", "x"],
        "--device": ["cpu", "cuda"],
        "--data": [*DATA, *ODD],
    }
    target = chance.choice([["runs/one"], ["runs/one"], ["one"], [], _source(chance)])
    return ["resume", *target, "--steps", "3", *_some(chance, options, 0.2)]


def _sample(chance: Random) -> list[str]:
    options = {
        "-n": NUMBERS[:5], "--seed": NUMBERS, "--seeds": ["0-3", "3,1", "5-1", "x", "0-99999999999", "1,,2", "-1"], "--class": ["0", "a", "0-99"],
        "--interpolate": ["2", "0", "1001", "x"], "--raw": [], "--truncation": ["0.5", "0", "nan", "11"], "--batch-size": ["1", "3", "0", "65537"],
        "--precision": ["fp32", "bf16", "tf32", "x"], "--device": ["cpu", "cuda", "x"], "--force": [],
    }  # fmt: skip
    return [
        "sample",
        *_source(chance),
        *_out(chance),
        "-n",
        "2",
        "--batch-size",
        "2",
        *_some(chance, options, 0.15),
    ]


def _inspect_sn(chance: Random) -> list[str]:
    options = {
        "--network": ["g", "d", "both", "x"], "--top-k": NUMBERS, "--spectrum": [], "--ema": [], "--history": [], "--against": [*SOURCES, *FOREIGN, *ODD],
        "--plot": ["y.png", "y.svg", "."], "--json": [], "--check": [], "--tolerance": ["0.5", "0", "nan", "-1"], "--force": [],
    }  # fmt: skip
    return ["inspect-sn", *_source(chance), *_some(chance, options, 0.12)]


def _attention(chance: Random) -> list[str]:
    options = {
        "--query": ["1,2", "31,31", "32,0", "x", "-1,0"], "--network": ["g", "d", "x"], "--data": [*DATA, *ODD], "--seeds": ["0-1", "x"],
        "--class": ["0"], "--raw": [], "--json": [], "--force": [], "--device": ["cpu", "x"],
    }  # fmt: skip
    return [
        "inspect-attention",
        *_source(chance),
        "-n",
        chance.choice(["1", "2", "0"]),
        "--rows",
        chance.choice(["1", "2", "65"]),
        *_out(chance),
        *_some(chance, options, 0.15),
    ]


def _others(chance: Random) -> list[str]:
    return chance.choice([
        ["runs", *chance.choice([[], ["runs"], [chance.choice(ODD)]]), *_some(chance, {"--json": []})],
        ["plot", *_source(chance), *_out(chance)],
        ["export", *_source(chance), "--to", chance.choice(["safetensors", "hub", "x"]), *_out(chance), *_some(chance, {"--network": ["g", "d"], "--raw": []})],
        ["presets", *chance.choice([[], ["faces32"], ["mine.yaml"], [chance.choice(ODD)]]), *_some(chance, {"--json": []})],
        ["report", *_source(chance), "--out", chance.choice(["y.html", "y.png", *ODD])],
        [chance.choice(["--help", "--version", "nosuch", *ODD])],
    ])  # fmt: skip
