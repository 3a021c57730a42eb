"""`ganctl export`: the same images elsewhere, and nothing of where they were made."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import ganctl
from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.errors import CheckpointError, GanctlError
from ganctl.export import hub, onnx_file
from ganctl.export.network import Exported, plain, without_place
from ganctl.models import Generator, build_networks
from ganctl.models.attention import SelfAttention
from ganctl.models.residual_blocks import ConditionalBatchNorm2d
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.store import safetensors
from ganctl.store.contents import DataIdentity, Description, RunIdentity, load_networks
from tests.cli.test_cli import TINY, tree

Capture = pytest.CaptureFixture[str]
CONDITIONAL = ["--preset", "sagan-cifar10", "--set", "optim.d_steps_per_g=1"]
needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not installed",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in three classes, a finished run, and a conditional one."""
    folder = tmp_path_factory.mktemp("trained")
    for number, name in enumerate(["boot", "dress", "shirt"] * 4):
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        draw_face(number, 40).save(folder / "photos" / name / f"{number:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANCTL_CACHE", str(folder / "cache"))
        for name, options in (("run", []), ("classes", CONDITIONAL)):
            data = ["--data", str(folder / "photos")]
            assert main(["train", *options, *data, *TINY, "--run", str(folder / name)]) == 0
    return folder


@pytest.fixture
def run(trained: Path, capsys: Capture) -> Path:
    """A copy of the run."""
    capsys.readouterr()
    return Path(shutil.copytree(trained / "run", "run", symlinks=True))


@pytest.fixture
def conditional(trained: Path, capsys: Capture) -> Path:
    """A copy of the conditional one."""
    capsys.readouterr()
    return Path(shutil.copytree(trained / "classes", "classes", symlinks=True))


def exported_of(config: Config, network: str = "g", names: list[str] | None = None) -> Exported:
    """A network with random weights, gammas and statistics, as if it had been trained."""
    names = names or (["a", "b", "c"] if config.model.conditional else [])
    pair = build_networks(config.model, config.data, torch.Generator().manual_seed(1), len(names))
    chosen = pair[network == "d"].eval().requires_grad_(False)
    stream = torch.Generator().manual_seed(2)
    for module in chosen.modules():
        if isinstance(module, SelfAttention):
            module.gamma.fill_(0.7)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=stream)
            module.running_var.uniform_(0.5, 1.5, generator=stream)
            if module.affine:
                module.weight.uniform_(1, 3, generator=stream)
        if isinstance(module, ConditionalBatchNorm2d):
            module.scale.weight.uniform_(0.5, 2, generator=stream)
            module.shift.weight.normal_(0, 0.5, generator=stream)
    data = DataIdentity(source="photos", n=9, fingerprint="f" * 64, classes=names)
    saved = Description(
        run=RunIdentity(id="x", name="run"), step=7, config=config, exactness={}, data=data
    )
    return Exported(chosen, "discriminator" if network == "d" else "generator_ema", saved)


def images(source: str, *options: str) -> np.ndarray:
    assert main(["sample", source, "-n", "6", "--out", "x.npz", "--force", *options]) == 0
    found: np.ndarray = np.load("x.npz")["images"]
    return found


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_safetensors_sampled_are_the_same_bytes(run: Path, raw: list[str], capsys: Capture) -> None:
    before = tree(run)
    assert main(["export", "run", "--to", "safetensors", *raw]) == 0
    name = "run-step2-raw.safetensors" if raw else "run-step2.safetensors"
    assert capsys.readouterr().out == f"{name}\n"
    assert np.array_equal(images(name, *raw), images("run", *raw))
    assert tree(run) == before


def test_safetensors_of_a_conditional_model_keep_the_classes(conditional: Path) -> None:
    assert main(["export", "classes", "--to", "safetensors", "--out", "x.safetensors"]) == 0
    assert np.array_equal(
        images("x.safetensors", "--class", "dress"), images("classes", "--class", "dress")
    )
    model = ganctl.load("x.safetensors")
    assert model.classes == ["boot", "dress", "shirt"]
    with pytest.raises(ValueError, match="no discriminator"):
        model.score(torch.zeros(1, 3, 32, 32))


def test_inspectors_look_at_what_an_exported_file_has(run: Path, capsys: Capture) -> None:
    for network in ("g", "d"):
        name = f"{network}.safetensors"
        assert (
            main(["export", "run", "--to", "safetensors", "--network", network, "--out", name]) == 0
        )
        capsys.readouterr()
        assert main(["inspect-sn", name, "--json"]) == 0
        exported = json.loads(capsys.readouterr().out)["layers"]
        options = ["--network", network, *(["--ema"] if network == "g" else [])]
        assert main(["inspect-sn", "run", "--json", *options]) == 0
        assert exported == json.loads(capsys.readouterr().out)["layers"]
        assert main(["inspect-sn", name]) == 0
        title = capsys.readouterr().out.splitlines()[0].strip()
        which = ", G's averaged weights" if network == "g" else ""
        assert title == f"{name}, step 2{which}"
    assert main(["inspect-attention", "g.safetensors", "-n", "2", "--rows", "1"]) == 0


def test_what_an_exported_file_does_not_have_is_one_sentence(run: Path, capsys: Capture) -> None:
    for network in ("g", "d"):
        main(
            [
                "export",
                "run",
                "--to",
                "safetensors",
                "--network",
                network,
                "--out",
                f"{network}.safetensors",
            ]
        )
    capsys.readouterr()
    refusals = {
        "sample d.safetensors": "d.safetensors has no averaged generator: it holds the discriminator",
        "sample g.safetensors --raw": "g.safetensors has no live generator: it holds the averaged",
        "inspect-sn g.safetensors --network d": "g.safetensors has no discriminator",
        "inspect-attention d.safetensors": "d.safetensors has no averaged generator",
        "sample missing.safetensors": "there is no checkpoint missing.safetensors",
    }
    for command, message in refusals.items():
        assert main(command.split()) == 3
        assert f"error: {message}" in capsys.readouterr().err


def test_exported_files_that_lie_are_refused(run: Path, capsys: Capture) -> None:
    path = Path("x.safetensors")
    main(["export", "run", "--to", "safetensors", "--out", str(path)])
    tensors, texts = safetensors.read(path)
    document = json.loads(texts["ganctl"])
    wide = {
        **document,
        "config": {**document["config"], "model": {**document["config"]["model"], "width": 512}},
    }
    attempts: dict[str, Callable[[], None]] = {
        "was not exported by ganctl": lambda: safetensors.write(path, tensors, {}),
        "was not exported by  ganctl": lambda: safetensors.write(path, tensors, {"ganctl": "[" * 10**5}),
        "exported by a newer ganctl": lambda: safetensors.write(path, tensors, {"ganctl": json.dumps({**document, "version": 2})}),
        "its metadata is bad at step": lambda: safetensors.write(path, tensors, {"ganctl": json.dumps({**document, "step": "x"})}),
        "generator_ema has": lambda: safetensors.write(path, tensors, {"ganctl": json.dumps(wide)}),
        "to_rgb.bias is missing": lambda: safetensors.write(path, {n: t for n, t in tensors.items() if n != "to_rgb.bias"}, texts),
        "is damaged: its SHA-256": lambda: path.write_bytes(path.read_bytes()[:-1] + b"\x55"),
    }  # fmt: skip
    for message, forge in attempts.items():
        safetensors.write(path, tensors, {name: texts[name] for name in ("format", "ganctl")})
        forge()
        capsys.readouterr()
        assert main(["sample", str(path)]) == 3, message
        assert " ".join(message.split()) in capsys.readouterr().err


def test_nothing_of_the_disk_is_told(run: Path, trained: Path) -> None:
    for kind in ("safetensors", "hub"):
        assert (
            main(
                ["export", "run", "--to", kind, "--out", f"x{'' if kind == 'hub' else '.' + kind}"]
            )
            == 0
        )
    for path in [Path("x.safetensors"), *Path("x").iterdir()]:
        assert str(trained).encode() not in path.read_bytes(), path
        assert path.suffix == ".png" or b"photos" in path.read_bytes()


@needs_onnx
@pytest.mark.parametrize("network", ["g", "d"])
@pytest.mark.parametrize("kind", ["convnet", "resnet"])
def test_onnx_computes_the_same_for_batches_of_any_size(
    kind: str, network: str, tiny: Callable[..., Config], tiny_resnet: Callable[..., Config]
) -> None:
    import onnx
    import onnxruntime

    exported = exported_of(tiny() if kind == "convnet" else tiny_resnet(), network)
    compared = onnx_file.write(Path("x.onnx"), exported)
    assert compared is not None and compared.largest < 1e-4
    model = onnx.load("x.onnx")
    assert [found.version for found in model.opset_import if not found.domain] == [18]
    assert {node.domain for node in model.graph.node} <= {""}
    assert [path.name for path in Path().iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession("x.onnx")
    for count in (1, 3):
        inputs = onnx_file.inputs_of(exported, count)
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        expected = exported.network(*inputs.values())
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    assert [i.name for i in session.get_inputs()] == list(inputs)


class Grey:
    """What an exporter would make that got everything wrong: an ONNX graph of grey images."""

    model = SimpleNamespace(metadata_props={})

    def save(self, path: Path, *, external_data: bool) -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        levels = numpy_helper.from_array(np.zeros((16, 3, 32, 32), np.float32))
        grey = helper.make_node("Constant", [], ["images"], value=levels)
        z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 8])
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [16, 3, 32, 32])
        graph = helper.make_graph([grey], "grey", [z], [images])
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path, "protobuf")


@needs_onnx
def test_an_onnx_file_that_differs_is_not_kept(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Grey())
    with pytest.raises(GanctlError, match=r"results are up to 0\.\d+ from ganctl's"):
        onnx_file.write(Path("x.onnx"), exported_of(tiny()))
    assert not list(Path().iterdir())


@needs_onnx
def test_packages_that_do_not_fit_each_other_are_named(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert main(["export", "run", "--to", "onnx"]) == 2
    err = capsys.readouterr().err
    assert "error: these do not work together: torch 2." in err
    assert "(No module named 'onnxscript._framework_apis.torch_2_11')" in err
    assert "hint: pip install --upgrade onnx onnxscript" in err
    assert not list(Path().glob("*.onnx*"))


def test_without_onnx_installed_it_is_a_sentence_and_a_hint(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "run", "--to", "onnx"]) == 2
    err = capsys.readouterr().err
    assert "error: --to onnx needs onnx and onnxscript, which are not installed" in err
    assert "hint: pip install onnx onnxscript onnxruntime" in err


@pytest.mark.parametrize("name", presets.names())
def test_plain_networks_are_those_of_every_preset(name: str) -> None:
    config = replace(presets.load(name), {"model.width": 8, "model.latent_dim": 16})
    for network in ("g", "d"):
        exported = exported_of(config, network)
        inputs = onnx_file.inputs_of(exported, 3)
        torch.testing.assert_close(
            plain(exported)(*inputs.values()),
            exported.network(*inputs.values()),
            rtol=1e-4,
            atol=1e-4,
        )


HOSTILE = "a|b`<script>alert(1)</script>\n# [x](http://x)"


def test_the_hub_folder_loads_by_the_lines_of_its_card(conditional: Path) -> None:
    assert main(["export", "classes", "--to", "hub", "--out", "x"]) == 0
    folder = Path("x")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "samples.png",
    ]  # fmt: skip
    card = (folder / "README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0].strip()
    assert len(lines.splitlines()) <= 10
    assert "license: unknown  # fill in" in card
    assert json.loads((folder / "config.json").read_text())["library_name"] == "ganctl"
    script = lines.replace('"model.safetensors"', '"x/model.safetensors"')
    exec(compile(script, "card", "exec"), {})
    assert len(list(Path().glob("0*.png"))) == 16


def test_a_card_has_the_scores_of_its_step_and_hostile_names_as_text(
    tiny_resnet: Callable[..., Config],
) -> None:
    exported = exported_of(tiny_resnet(), names=[HOSTILE, "b", "c"])
    assert "None was measured." in hub.card(exported, [])
    card = hub.card(exported, [{"step": 4, "score_fid": 9.5, "d_loss": 1.0}])
    assert "9.5" in card and "step 4" in card and "d_loss" not in card
    assert "<script>" not in card and "](http" not in card
    assert all(line.count("|") == 3 for line in card.splitlines() if line.startswith("| "))


@pytest.mark.parametrize("name", ["best.pt", "checkpoints/step-000000002.pt"])
def test_a_card_has_the_scores_of_the_run_up_to_its_checkpoint(run: Path, name: str) -> None:
    """Also of best.pt, which lies in the run's folder itself."""
    (run / "best.pt").write_bytes((run / "checkpoints/step-000000002.pt").read_bytes())
    rows = [{"step": 1, "score_fd": 77.5}, {"step": 2, "d_loss": 1.0}, {"step": 3, "score_fd": 5.5}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["export", str(run / name), "--to", "hub", "--out", "x"]) == 0
    card = Path("x/README.md").read_text()
    assert "77.5" in card and "step 1" in card and "5.5 " not in card.replace("77.5", "")


def test_options_that_do_not_fit_are_refused_before_anything_is_read(capsys: Capture) -> None:
    Path("x.onnx").write_text("")
    for options, message in {
        (): "--to is missing, but it must be one of safetensors, onnx",
        ("--to", "keras"): "--to is 'keras'",
        ("--to", "hub", "--network", "d"): "--to hub is for generators",
        ("--to", "onnx", "--network", "both"): "--network is 'both', but it must be g or d",
        ("--to", "safetensors", "--network", "d", "--raw"): "--raw is for generators",
        ("--to", "onnx", "--out", "x.pt"): "--to onnx makes a .onnx file, but --out is x.pt",
        ("--to", "onnx", "--out", "x.onnx"): "x.onnx exists",
    }.items():
        assert main(["export", "nowhere", *options]) == 2
        assert f"error: {message}" in capsys.readouterr().err


def test_the_source_of_the_images_keeps_its_name_alone(tiny: Callable[..., Config]) -> None:
    saved = exported_of(tiny()).saved
    named = saved.model_copy(
        update={
            "data": saved.data.model_copy(update={"source": "/home/x/photos"}),
            "config": replace(saved.config, {"data.source": "/home/x/photos"}),
        }
    )
    clean = without_place(named)
    assert (clean.data.source, clean.config.data.source) == ("photos", "photos")
    assert without_place(saved).data.source == "photos"


def test_all_three_networks_are_in_a_checkpoint_and_none_is_invented(run: Path) -> None:
    networks, _ = load_networks(run / "ckpt.pt")
    assert networks.those_of(["g", "d"]) == ["g", "d"]
    assert isinstance(networks.generator, Generator)
    main(["export", "run", "--to", "safetensors", "--out", "x.safetensors"])
    networks, _ = load_networks(Path("x.safetensors"))
    assert networks.those_of(["g", "d"]) == ["g"]
    with pytest.raises(CheckpointError, match="no discriminator"):
        _ = networks.discriminator
