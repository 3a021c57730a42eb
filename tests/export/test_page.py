"""The page that draws: ganctl's images, from ganctl's seeds, in a browser and with nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from ganctl.cli.app import main
from ganctl.errors import ConfigError, GanctlError
from ganctl.export import page as pages
from ganctl.export.execution import run
from ganctl.export.network import Exported
from ganctl.export.page import page_of
from ganctl.export.program import program_of
from ganctl.models import architecture
from ganctl.models.attention import SelfAttention
from ganctl.sampling.draw import Point, draw, latents
from ganctl.sampling.interpolate import interpolate
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from tests.browser import Browser
from tests.export.test_exports import exported_of

Capture = pytest.CaptureFixture[str]
Make = Callable[..., Config]
HOSTILE = "</script><img src=x onerror=alert(1)>"


def opened(exported: Exported, browser: Browser, **size: int) -> None:
    Path("x.html").write_text(page_of(exported).document)
    browser.open(Path("x.html"), **size)
    assert browser.problems() == []
    assert browser.evaluate("document.documentElement.dataset.ready") == "yes"


def images_of(
    exported: Exported, points: list[Point], truncation: float | None = None
) -> np.ndarray:
    batches = draw(
        exported.generator, points, batch_size=4, truncation=truncation, device=torch.device("cpu")
    )
    return np.concatenate([batch.images for batch in batches]).astype(int)


def levels(browser: Browser, expression: str) -> np.ndarray:
    found = np.array(browser.evaluate(f"Array.from(({expression}).levels)"))
    side = round((len(found) / 4) ** 0.5)
    assert (found[3::4] == 255).all()
    return found.reshape(side, side, 4)[:, :, :3]


@pytest.mark.parametrize("name", presets.names())
def test_the_program_is_the_network_of_every_preset(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COMPARED", 2)
    config = replace(presets.load(name), {"model.width": 8, "model.latent_dim": 16})
    exported = exported_of(config)
    z = latents(16, range(2), None)
    labels = torch.arange(1, 3) if exported.classes else None
    shares = None if labels is None else one_hot(labels, 3).float()
    expected = exported.network(z, labels)
    program = program_of(exported.generator)
    torch.testing.assert_close(run(program, z, shares, torch.float32), expected, rtol=0, atol=1e-3)
    assert page_of(exported).largest <= 1


@pytest.mark.parametrize("kind", ["modulated", "plain", "resnet", "wide"])
def test_images_in_a_browser_are_ganctls_within_a_grey_level(
    kind: str, tiny: Make, tiny_resnet: Make, browser: Browser
) -> None:
    configs = {
        "modulated": lambda: tiny(),
        "plain": lambda: tiny(model__self_modulation=False),
        "resnet": lambda: tiny_resnet(),
        "wide": lambda: tiny(
            data__resolution=64, model__attention={"at": [16, 32], "scaled": False, "pooled": False}
        ),
    }
    exported = exported_of(configs[kind]())
    opened(exported, browser)
    for seed, label, truncation in ((0, 0, None), (7, 2, None), (123456789012345678, 1, 0.7)):
        point = Point(seed, label if exported.classes else None)
        shares = f"[[{label}, 1]]" if exported.classes else "[]"
        cut = "null" if truncation is None else truncation
        found = levels(browser, f"generate(latent('{seed}', {cut}), {shares})")
        (expected,) = images_of(exported, [point], truncation)
        assert abs(found - expected).max() <= 1
        assert expected.std() > 1


def test_latents_in_a_browser_are_torchs(tiny: Make, browser: Browser) -> None:
    opened(exported_of(tiny()), browser)
    for dim in (8, 15, 16, 20, 128):
        browser.evaluate(f"model.latent = {dim}")
        for truncation in (None, 0.5, 2.0):
            cut = "null" if truncation is None else truncation
            found = browser.evaluate(
                f"['0', '3', '4611686018427387903'].map((s) => Array.from(latent(s, {cut})))"
            )
            expected = latents(dim, [0, 3, 2**62 - 1], truncation)
            torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)


def test_the_way_between_seeds_and_classes_is_ganctls(tiny_resnet: Make, browser: Browser) -> None:
    exported = exported_of(tiny_resnet())
    opened(exported, browser)
    (way,) = interpolate(
        exported.generator, [Point(3, 0), Point(5, 2)], 4, device=torch.device("cpu")
    )
    for step in range(4):
        shares = f"[[0, {1 - step / 4}], [2, {step / 4}]]"
        z = f"between(latent('3', null), latent('5', null), {step / 4})"
        found = levels(browser, f"generate({z}, {shares})")
        assert abs(found - way[step].astype(int)).max() <= 1


def test_where_the_point_under_the_mouse_looks_is_the_blocks_own_map(
    tiny: Make, browser: Browser
) -> None:
    exported = exported_of(tiny())
    (block,) = (m for m in exported.network.modules() if isinstance(m, SelfAttention))
    maps = []
    hook = block.register_forward_hook(lambda b, x, _: maps.append(b.attention_map(*x)))  # type: ignore[operator]
    exported.network(latents(8, [0], None))
    hook.remove()
    opened(exported, browser)
    found = browser.evaluate("[0, 37, 255].map((n) => Array.from(lookOf(shown.looks[0], n)))")
    torch.testing.assert_close(torch.tensor(found), maps[0][0, [0, 37, 255]], rtol=1e-2, atol=1e-4)
    move = """(() => { const image = document.getElementById('image'), box = image.getBoundingClientRect();
        image.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2, clientY: box.top + 1}));
        return [point, document.getElementById('looks').textContent,
            document.getElementById('heat').getContext('2d').getImageData(0, 0, 512, 512).data.some((v) => v)]; })()"""
    place, words, painted = browser.evaluate(move)
    assert place == [16, 0]
    assert words.startswith("The point 16, 0 looks up to ")
    assert painted


def test_controls_work_by_keyboard_and_everything_fits_a_phone(
    tiny_resnet: Make, browser: Browser
) -> None:
    opened(exported_of(tiny_resnet()), browser, width=360)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    changed = """((id, value) => { const canvas = document.getElementById('image');
        const before = canvas.toDataURL(), input = document.getElementById(id);
        if (input.type === 'checkbox') input.checked = value; else input.value = value;
        input.dispatchEvent(new Event('input'));
        return new Promise((done) => setTimeout(() => done(before !== canvas.toDataURL()))); })"""
    for control, value in (
        ("seed", "'9'"),
        ("class", "'1'"),
        ("cut", "true"),
        ("truncation", "'0.3'"),
        ("share", "'0.5'"),
        ("class-2", "'2'"),
        ("seed-2", "'4'"),
    ):
        assert browser.evaluate(f"{changed}('{control}', {value})"), control
    press = """(() => { const image = document.getElementById('image'); image.focus();
        image.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true})); return point; })()"""
    assert browser.evaluate(press) == [15, 16]
    assert browser.evaluate(f"{changed}('seed', 'x1')")  # it draws seed 0, and the field says so
    assert (
        browser.evaluate("document.getElementById('seed').getAttribute('aria-invalid')") == "true"
    )
    for button in ("more", "save", "another", "save-grid"):
        browser.evaluate(f"document.getElementById('{button}').click()")
    assert browser.evaluate("document.getElementById('grid').width") == 128
    assert browser.problems() == []


def test_hostile_names_are_text(tiny_resnet: Make, browser: Browser) -> None:
    exported = exported_of(tiny_resnet(), names=[HOSTILE, "b", "c"])
    saved = exported.saved.model_copy(
        update={"run": exported.saved.run.model_copy(update={"name": HOSTILE})}
    )
    opened(exported._replace(saved=saved), browser)
    assert HOSTILE not in Path("x.html").read_text()
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.evaluate("document.querySelector('option').textContent") == HOSTILE
    assert browser.evaluate("document.images.length") == 0


def test_weights_are_in_single_precision_where_half_moves_an_image(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    exported = exported_of(tiny())
    assert page_of(exported).half
    monkeypatch.setattr(pages, "LEVEL", 1e-5)
    made = page_of(exported)
    assert not made.half
    Path("x.html").write_text(made.document)
    browser.open(Path("x.html"))
    (expected,) = images_of(exported, [Point(4)])
    assert abs(levels(browser, "imageOf('4', [])") - expected).max() <= 1
    monkeypatch.setattr(pages, "LEVEL", 1e-12)
    with pytest.raises(GanctlError, match="the page was not made"):
        page_of(exported)


def test_an_architecture_without_a_program_is_refused(tiny: Make) -> None:
    class Toy(architecture.Generator):
        latent_dim, n_classes = 8, 0

    with pytest.raises(ConfigError, match="there is no page for Toy networks"):
        program_of(Toy())


def test_export_writes_the_page_of_a_run(photos: Path, capsys: Capture) -> None:
    from tests.cli.test_cli import TINY

    assert main(["train", "--data", str(photos), *TINY, "--run", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--to", "page"]) == 0
    out, err = capsys.readouterr()
    assert out == "run-step2.html\n"
    assert "compared: at most " in err and "in half precision" in err
    made = Path("run-step2.html").read_text()
    assert str(photos.parent) not in made
    assert "http" not in made.replace("http-equiv", "")


def test_the_page_tells_the_parameters_that_a_dry_run_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/presets.md has them too; not those of the kernels that do without up-sampling."""
    monkeypatch.setattr(pages, "COMPARED", 2)
    document = page_of(exported_of(presets.load("photos64"))).document
    assert "A network of 1.76 million parameters" in document
