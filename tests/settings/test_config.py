"""Settings: every mistake gets one sentence that names it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganctl.errors import ConfigError
from ganctl.settings import config, presets, strict_yaml
from ganctl.settings.config import Config

PIECES = [
    "\t", "- ", ": ", "&a ", "*a", "!!python/name:os.system ", "[", "{", "'", '"', "|", ">", "---\n",
    "...", "<<: ", "? ", "%", "0x10", "1e400", "-", ".nan", "~", "null", "\r", "\u2028", "\x00", "\ufeff",
]  # fmt: skip


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_and_says_how_to_run_it(name: str) -> None:
    assert presets.load(name)
    assert presets.path_of(name).read_text().startswith("# ganctl train")


@pytest.mark.parametrize("name", presets.names())
def test_the_effective_configuration_is_a_preset_of_its_own(name: str, tmp_path: Path) -> None:
    written = tmp_path / "mine.yaml"
    written.write_text(config.to_yaml(presets.load(name)))
    assert presets.load(str(written)) == presets.load(name)


def test_overrides_are_numbers_lists_and_switches() -> None:
    overrides = ["optim.g_lr=1e-4", "optim.betas=[0, 0.9]", "data.flip=true", "data.crop=null"]
    loaded = presets.load("celeba64", overrides)
    assert loaded.optim.g_lr == 0.0001
    assert loaded.optim.betas == [0.0, 0.9]
    assert loaded.data.flip is True
    assert loaded.data.crop is None


def test_options_count_with_overrides_and_come_last() -> None:
    """32 images cannot be split into 3 parts; 30 can."""
    split = ["optim.grad_accumulation=3", "train.steps=7"]
    loaded = presets.load("faces32", split, {"optim.batch_size": 30, "train.steps": 9})
    assert (loaded.optim.batch_size, loaded.train.steps) == (30, 9)
    with pytest.raises(ConfigError, match=r"^train\.steps is -1, but it"):
        presets.load("faces32", [], {"train.steps": -1})


def test_a_preset_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "middle.yaml").write_text("extends: celeba64\ntrain:\n  seed: 5\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: middle.yaml\noptim:\n  g_lr: 2e-4\n")
    loaded = presets.load(str(mine))
    assert (loaded.optim.g_lr, loaded.optim.d_lr, loaded.train.seed) == (2e-4, 4e-4, 5)


MISTAKES = {
    "optim:\n  lr_g: 1\n": ("mine.yaml:3: unknown setting optim.lr_g", "did you mean optim.g_lr?"),
    "optim:\n  g_lr: fast\n": ("mine.yaml:3: optim.g_lr is 'fast', but it should be a valid number", None),
    "optim:\n  g_lr: -1\n": ("mine.yaml:3: optim.g_lr is -1, but it should be greater than 0", None),
    "optim:\n  g_lr: .nan\n": ("mine.yaml:3: optim.g_lr is nan, but it should be a finite number", None),
    "data:\n  flip: no\n": ("mine.yaml:3: data.flip is 'no', but it should be a valid boolean", None),
    "train:\n  seed: 1\n  seed: 2\n": ("mine.yaml:4: seed is given twice", "the first is at "),
    "data:\n\tflip: true\n": ("mine.yaml:3: not valid YAML: ", None),
    "optim: 3\n": ("mine.yaml:2: optim is 3, but it ", None),
    "data:\n  resolution: 63\n": ("data.resolution is 63, but it should be 32, 64, 128 or 256", None),
    "model:\n  attention:\n    at: [33]\n": ("model.attention.at is [33], but at resolution 64", None),
    "model:\n  width: 7\n": ("mine.yaml:3: model.width is 7, but it should be ", None),
    "model:\n  architecture: unet\n": ("mine.yaml:3: model.architecture is 'unet', but it should be 'convnet' or 'resnet'", None),
    "model:\n  conditional: true\n": ("mine.yaml:3: convnet networks have no setting model.conditional", None),
    "model:\n  attention.at: []\n": ("mine.yaml:3: unknown setting model.attention.at", None),
    "model.width: 8\n": ("mine.yaml:2: unknown setting model.width", None),
    "model:\n  conditionl: true\n": ("mine.yaml:3: unknown setting model.conditionl", "did you mean model.conditional?"),
    "data:\n  attribute: Smiling\n": ("data.attribute needs a conditional model", None),
    "optim:\n  lr_decay: [5, 5]\n": ("optim.lr_decay is [5, 5], but it is a step and a later one", None),
    "optim:\n  lr_decay: [0, 100]\n": ("the rates are zero from step 100 on", None),
    "model:\n  architecture: resnet\n": ("the setting model.conditional is missing", None),
    "health:\n  on_alarm: loud\n": ("mine.yaml:3: health.on_alarm is 'loud', but it should be 'warn' or 'stop'", None),
    "optim:\n  grad_accumulation: 3\n": ("optim.batch_size 64 cannot be split into", None),
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_file_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: celeba64\n{text}")
    with pytest.raises(ConfigError) as caught:
        presets.load(str(mine))
    message, hint = MISTAKES[text]
    assert message in caught.value.message
    assert (hint or "") in (caught.value.hint or "")
    assert caught.value.hint


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train:\n  seed: 1\n")
    with pytest.raises(ConfigError, match=r"the setting data is missing") as caught:
        presets.load(str(mine))
    assert "extends: celeba64" in (caught.value.hint or "")


def test_presets_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        presets.load(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.g_rl=1", "unknown setting optim.g_rl"),
        ("optim.g_lr", "--set 'optim.g_lr' is not key=value"),
        ("optim.g_lr=[", "--set: cannot read the value '['"),
        ("train.seed=-1", "--set: train.seed is -1"),
        ("model=3", "unknown setting model"),
    ],
)
def test_a_mistake_in_an_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        presets.load("faces32", [override])
    assert message in caught.value.message


def test_numbers_are_read_as_yaml_1_2_says() -> None:
    text = "a: 1e-4\nb: no\nc: 012\nd: 1:30\ne: 2001-01-01\nf: '7'\ng: 0x10\nh: ~\ni: true\nj: -3\n"
    assert strict_yaml.read_text(text, "x").settings == {
        "a": 1e-4, "b": "no", "c": 12.0, "d": "1:30", "e": "2001-01-01", "f": "7", "g": "0x10",
        "h": None, "i": True, "j": -3,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch canary']\n",
        "a: &x [1]\nb: *x\n",
        "a: " + "[" * 3000,
        "- 1\n",
        "",
        "a: 1\n---\nb: 2\n",
        "? [1]\n: 2\n",
        "a: " + "9" * 5000 + "x" * 65_536,
    ],
)
def test_hostile_text_is_refused_and_runs_nothing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        strict_yaml.read_file(file)
    assert not Path("canary").exists()


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "utf16.yaml"
    file.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        strict_yaml.read_file(file)


def test_a_configuration_from_before_alarms_warns() -> None:
    settings = presets.load("faces32").model_dump()
    del settings["health"]
    assert config.validate(settings, {}).health.on_alarm == "warn"


def test_settings_cannot_be_changed_afterwards(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny().train.seed = 3  # type: ignore[misc]


@given(data=st.data())
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_preset_is_valid_or_one_kind_of_error(
    data: st.DataObject, tmp_path: Path
) -> None:
    text = presets.path_of("celeba64").read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        piece = data.draw(st.one_of(st.text(max_size=12), st.sampled_from(PIECES)))
        text = text[:start] + piece + text[end:]
    path = tmp_path / "changed.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(presets.load(str(path)), Config)
    except ConfigError as error:
        assert error.message
