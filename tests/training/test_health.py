"""Health: each figure against an independent computation, each diagnosis on rows."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, batches_of, inputs_of
from rich.console import Console
from torch import Tensor, nn

from ganctl import session
from ganctl.cli import show, watching
from ganctl.cli.app import main
from ganctl.data.batches import Pixels
from ganctl.data.faces import draw_face
from ganctl.errors import AlarmError
from ganctl.models.spectral import normalized_weights, power_iterate
from ganctl.settings.config import Config
from ganctl.store import runs
from ganctl.store.journal import Row
from ganctl.training import checkup, diagnosis, diversity, metrics, state, step
from ganctl.training.checkup import Checkup
from ganctl.training.diagnosis import diagnose
from ganctl.training.diversity import ClassDiversity, Diversity
from tests.training.test_resume import sections, trained

CPU = torch.device("cpu")
# Figures of benchmarks/health.py's runs, of 500 to 2,000 steps, and of three on drawn avatars.
FIXTURE = Path(__file__).parent / "health.jsonl"


def test_spreads_and_shares_by_hand() -> None:
    real, fake = torch.tensor([2.0, 4.0, 1.0, -1.0]), torch.tensor([-1.0, -1.5, 0.0, 2.5])
    found = metrics.d_metrics(torch.zeros(()), real, fake, torch.zeros(()))[1:7]
    shares = [2 / 4, 1 / 4]  # a score on the margin is inside
    expected = [1.5, 0.0, np.std(real.numpy()), np.std(fake.numpy()), *shares]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected, dtype=torch.float32))


def test_a_batch_of_one_has_no_spread() -> None:
    zero, one = torch.zeros(()), torch.ones(1)
    found = metrics.d_metrics(zero, one, one, zero)
    assert (found.real_spread, found.fake_spread) == (0, 0)


@pytest.mark.parametrize("scale", [None, 2.0**16])
def test_the_gradient_norm_is_that_of_all_gradients_without_the_scale(scale: float | None) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    loss = network(torch.randn(5, 3)).square().mean()
    plain = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    expected = torch.cat([gradient.flatten() for gradient in plain]).norm()
    scaler.scale(loss).backward()
    torch.testing.assert_close(metrics.gradient_norm(network, scaler), expected)


def test_sigma_drift_is_how_far_an_estimate_is_off_and_changes_nothing(
    tiny: Callable[..., Config],
) -> None:
    """A large gap between singular values, so that five iterations arrive."""
    discriminator = state.create(tiny(), CPU).discriminator
    _, weight, norm = next(normalized_weights(discriminator))
    with torch.no_grad():
        for _, other, _ in normalized_weights(discriminator):
            u, values, v = torch.linalg.svd(other.flatten(1), full_matrices=False)
            values[1:] *= 0.2
            other.copy_((u * values @ v).view_as(other))
        for _ in range(20):
            power_iterate(discriminator)
        assert metrics.sigma_drift([discriminator]) == pytest.approx(0, abs=1e-5)
        norm.u.copy_(nn.functional.normalize(norm.u + 0.3 * torch.randn_like(norm.u), dim=0))
        before = copy.deepcopy(discriminator.state_dict())
        exact = torch.linalg.matrix_norm(weight.flatten(1), 2) / norm.sigma(weight) - 1
    assert exact > 0.02
    assert metrics.sigma_drift([discriminator]) == pytest.approx(exact.item(), rel=1e-3)
    for name, value in discriminator.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_normalised_weights_there_is_no_drift() -> None:
    assert metrics.sigma_drift([nn.Linear(2, 2)]) is None


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_the_vendi_score_counts_groups_of_equal_points(groups: int) -> None:
    points = 100.0 * torch.eye(groups, dtype=torch.float64).repeat(12 // groups, 1)
    assert diversity.vendi_score(points, 1.0) == pytest.approx(groups)


def test_the_vendi_score_of_two_points_by_hand() -> None:
    """Their similarity s makes eigenvalues (1 + s) / 2 and (1 - s) / 2."""
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    similarity = np.exp(-25 / (2 * 4.0**2))
    shares = np.array([1 + similarity, 1 - similarity]) / 2
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert diversity.vendi_score(points, 4.0) == pytest.approx(expected)


class Drawn(nn.Module):
    """In place of a generator: given images, one after the other."""

    n_classes = 0

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images, self.position = images, 0

    def forward(self, z: Tensor) -> Tensor:
        self.position += len(z)
        return self.images[self.position - len(z) : self.position]


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """(64, 32, 32, 3) uint8: drawn faces."""
    return np.stack([np.asarray(draw_face(i, 32)) for i in range(64)])


def test_diversity_is_1_for_the_real_images_and_falls_with_each_kind_of_collapse(
    tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    """All alike, alike but for noise, and a few modes repeated; other real images are near 1."""
    diversity = Diversity(tiny(), batches_of(crowd, tiny()), 0)
    real = batches_of(crowd, tiny()).at(0, 64)
    others = np.stack([np.asarray(draw_face(i, 32)) for i in range(100, 164)])

    def of(images: Tensor) -> float | None:
        return diversity.of(Drawn(images))  # type: ignore[arg-type]

    alike = real[:1].expand(64, -1, -1, -1)
    assert of(real) == 1.0
    assert of(batches_of(others, tiny()).at(0, 64)) == pytest.approx(1, abs=0.25)
    assert of(alike) == pytest.approx(0, abs=1e-6)
    assert of(alike + 0.2 * torch.randn(64, 3, 32, 32)) == pytest.approx(0, abs=0.1)
    few = of(real[:4].repeat(16, 1, 1, 1))
    assert few is not None
    assert 0.02 < few < diagnosis.COLLAPSED
    assert of(torch.full((64, 3, 32, 32), torch.nan)) is None


def test_repeated_real_images_do_not_stop_the_measurement(
    tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    """Most pairs are equal, so half the median distance of all pairs would be 0."""
    images = np.concatenate([crowd[:3], crowd[:1].repeat(9, axis=0)])
    diversity = Diversity(tiny(), batches_of(images, tiny()), 0)
    real = batches_of(images, tiny()).at(0, 12)
    diversity.latents = diversity.latents._replace(z=diversity.latents.z[:12])
    assert diversity.of(Drawn(real)) == 1.0  # type: ignore[arg-type]


def test_real_images_that_are_all_alike_measure_nothing(
    tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    for images in (crowd[:1], crowd[:1].repeat(9, axis=0)):
        diversity = Diversity(tiny(), batches_of(images, tiny()), 0)
        assert diversity.of(state.create(tiny(), CPU).generator_ema) is None


@pytest.mark.parametrize("family", ["tiny", "tiny_resnet"])
def test_measuring_diversity_changes_neither_network_nor_random_state(
    family: str, request: pytest.FixtureRequest, faces: np.ndarray
) -> None:
    config: Config = request.getfixturevalue(family)()
    current = state.create(config, CPU, N_CLASSES)
    before, randomness = copy.deepcopy(current.generator_ema.state_dict()), torch.get_rng_state()
    diversity = Diversity(config, batches_of(faces, config), current.generator_ema.n_classes)
    first = diversity.of(current.generator_ema)
    assert first is not None
    assert diversity.of(current.generator_ema) == first
    assert torch.equal(torch.get_rng_state(), randomness)
    for name, value in current.generator_ema.state_dict().items():
        assert torch.equal(value, before[name]), name


def rows_with(count: int = 20, every: int = 50, **figures: object) -> list[Row]:
    """`count` healthy rows, with some figures changed in all of them."""
    well = {
        "d_loss": 1.4, "real_outside": 0.3, "fake_outside": 0.3, "diversity": 0.8, "real_spread": 0.4,
    }  # fmt: skip
    return [{"step": every * (i + 1), **well, **figures} for i in range(count)]


def names(rows: list[Row], loss: str = "hinge", window: int = 300) -> list[str]:
    return [found.name for found in diagnose(rows, loss, window)]


WILD = {"real_spread": 3.0, "d_loss": 9.0}
FOOLED = {
    "real_score": 0.01,
    "fake_score": 0.05,
    "real_spread": 0.02,
    "fake_spread": 0.03,
    "d_loss": 2.04,
}
EXPLODED = {
    "real_spread": 20.0,
    "fake_spread": 30.0,
    "real_score": 6e4,
    "fake_score": 5e4 - 1e4,
    "d_loss": -2e4,
}
WON = {"real_outside": 0.995, "fake_outside": 0.992, "d_loss": 0.01}


@pytest.mark.parametrize(
    ("figures", "loss", "expected"),
    [
        ({}, "hinge", []),
        ({"diversity": 0.05}, "hinge", ["mode collapse"]),
        ({"diversity": 0.05}, "wasserstein", ["mode collapse"]),
        ({"diversity": 0.2}, "hinge", ["low diversity"]),
        ({"diversity": 0.3}, "hinge", []),
        ({"diversity": 1.5}, "hinge", []),
        ({"diversity": 1.6}, "hinge", ["images are too varied"]),
        ({"class_diversity": 0.05}, "hinge", ["mode collapse"]),
        ({"class_diversity": 0.05, "diversity": 0.05}, "hinge", ["mode collapse"]),
        ({"class_diversity": 0.4}, "hinge", []),
        ({**FOOLED, "diversity": 0.01}, "hinge", ["discriminator too weak"]),
        ({**FOOLED, "d_loss": 1.41}, "nonsaturating", ["discriminator too weak"]),
        ({**FOOLED, "d_loss": 0.04}, "wasserstein", ["discriminator too weak"]),
        ({**FOOLED, "fake_score": 0.03}, "hinge", []),
        ({**FOOLED, "fake_score": 0.03, "diversity": 0.01}, "hinge", ["mode collapse"]),
        ({**FOOLED, "fake_score": 0.01, "real_spread": 0.0, "fake_spread": 0.0}, "hinge", ["discriminator too weak"]),
        ({**FOOLED, "fake_score": None}, "hinge", []),
        (EXPLODED, "wasserstein", ["scores explode"]),
        ({**EXPLODED, "d_loss": 9e4}, "hinge", ["scores explode"]),
        ({**EXPLODED, "fake_score": 5.95e4}, "wasserstein", []),
        ({"diversity": None}, "hinge", []),
        (WON, "hinge", ["discriminator overpowers"]),
        ({**WON, "diversity": 0.0}, "hinge", ["mode collapse", "discriminator overpowers"]),
        ({**WON, "fake_outside": 0.95}, "hinge", []),
        ({"real_outside": None, "fake_outside": None, "d_loss": 0.01}, "hinge", []),
        ({"real_outside": None, "fake_outside": None, "d_loss": 0.01}, "nonsaturating", ["discriminator overpowers"]),
        ({"real_outside": None, "fake_outside": None, "d_loss": 0.05}, "nonsaturating", []),
        ({"real_outside": None, "fake_outside": None, "d_loss": -90.0}, "wasserstein", []),
        ({"memorising_auc": 0.8}, "hinge", ["D memorises"]),
        ({"memorising_auc": 0.8}, "wasserstein", ["D memorises"]),
        ({"memorising_auc": 0.69}, "hinge", []),
        ({"memorising_auc": None}, "hinge", []),
        (WILD, "hinge", ["discriminator overpowers"]),
        (WILD, "nonsaturating", ["discriminator overpowers"]),
        (WILD, "wasserstein", []),
        ({**WILD, "real_spread": 0.2}, "hinge", []),
        ({**WILD, "d_loss": 1.9}, "hinge", []),
    ],
)  # fmt: skip
def test_diagnoses_by_hand(figures: dict[str, object], loss: str, expected: list[str]) -> None:
    assert names(rows_with(**figures), loss) == expected


def test_a_diagnosis_gives_its_evidence_and_what_to_try() -> None:
    collapse, overpowers = diagnose(rows_with(**WON, diversity=0.05), "hinge", 300)
    assert str(collapse) == (
        "mode collapse: since step 750 images from fixed noise have been at most 0.05 times as"
        " varied as real ones"
    )
    assert "lower optim.g_lr" in collapse.advice
    assert overpowers.evidence == (
        "since step 750 D(real) > 1 for at least 99.5 % of the real images and D(fake) < -1 for"
        " 99.2 % of the fake ones, so D has nothing to learn"
    )
    assert "lower optim.d_lr" in overpowers.advice
    (wild,) = diagnose(rows_with(**WILD), "hinge", 300)
    assert wild.evidence == (
        "since step 750 D(real) has had a spread of at least 3.0, yet D's loss, typically 9.0, is"
        " above that of guessing, 2.0: D moves faster than anything can follow"
    )
    (won,) = diagnose(rows_with(real_outside=None, d_loss=0.01), "nonsaturating", 300)
    assert won.evidence == (
        "since step 750 D's loss has been at most 0.010, typically 0.010; guessing has 1.39"
    )


def test_memorising_is_told_by_the_mean_of_the_window_with_what_helps() -> None:
    rows = rows_with(memorising_auc=0.8)
    rows[-1]["memorising_auc"] = 0.7
    (found,) = diagnose(rows, "hinge", 300)
    assert str(found) == (
        "D memorises: since step 750 D has scored a training image above an image held out from"
        " training in 78 % of all pairs; 50 % is no difference"
    )
    for advice in (
        "keep the checkpoint that you like best",
        "augment.probability: adaptive",
        "more images",
    ):
        assert advice in found.advice


def test_a_weak_discriminator_is_told_from_collapse_and_the_advice_is_to_raise_its_rate() -> None:
    (weak,) = diagnose(rows_with(**FOOLED, diversity=0.01), "hinge", 300)
    assert weak.evidence == (
        "since step 750 D has scored generated images above real ones, by at least 1.3 times the"
        " spread of its scores: G learns nothing from it"
    )
    assert "a higher optim.d_lr" in weak.advice
    blind = {"real_score": 0.5, "fake_score": 0.5, "real_spread": 0.0, "fake_spread": 0.0}
    (weak,) = diagnose(rows_with(**blind), "hinge", 300)
    assert weak.evidence == (
        "since step 750 D has given all real images one score, and all generated ones one that is no"
        " lower: G learns nothing from it"
    )
    assert not diagnose(rows_with(**blind | {"real_score": 0.6}), "hinge", 300)  # it tells them


def test_other_evidence_names_its_figures() -> None:
    (exploded,) = diagnose(rows_with(**EXPLODED), "wasserstein", 300)
    assert exploded.evidence == (
        "since step 750 D's scores have lain 20,000 to 20,000 apart: nothing bounds D"
    )
    assert "loss.gradient_penalty: 10" in exploded.advice
    (within,) = diagnose(rows_with(class_diversity=0.05), "hinge", 300)
    assert within.evidence == (
        "since step 750 images of one class from different noise have been at most 0.05 times as"
        " varied as real ones of that class"
    )
    (low,), (high,) = (diagnose(rows_with(diversity=d), "hinge", 300) for d in (0.2, 1.6))
    assert (low.alarming, high.alarming) == (False, False)
    assert "at most 0.20 times" in low.evidence
    assert "at least 1.60 times" in high.evidence


def test_scores_that_grow_tenfold_in_a_window_explode_earlier() -> None:
    for last, expected in ((1_100.0, ["scores explode"]), (900.0, [])):
        rows = rows_with(
            d_loss=-5.0, real_spread=110.0, fake_spread=1.0, real_score=0.0, fake_score=0.0
        )
        rows[-1]["real_spread"] = last
        assert names(rows, "wasserstein") == expected


def test_the_size_of_scores_counts_no_shift() -> None:
    row = {"real_spread": 1.0, "fake_spread": 2.0, "real_score": 1e9, "fake_score": 1e9 - 4}
    assert diagnosis.size_of_scores(row) == 4
    assert diagnosis.is_sane(row)
    assert not diagnosis.is_sane({**row, "fake_spread": 2e3})
    assert diagnosis.is_sane({"real_spread": 1e9})  # an older row has not all figures


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"loss__kind": "wasserstein", "model__d_spectral_norm": False}, True),
        ({"loss__kind": "relativistic", "model__d_spectral_norm": False}, True),
        ({"loss__kind": "wasserstein"}, False),
        (
            {
                "loss__kind": "wasserstein",
                "model__d_spectral_norm": False,
                "loss__gradient_penalty": 10.0,
            },
            False,
        ),
        ({"loss__kind": "relativistic", "model__d_spectral_norm": False, "loss__r1": 1.0}, False),
        ({"model__d_spectral_norm": False}, False),
    ],
)
def test_a_run_that_nothing_bounds_is_warned_of_at_its_start(
    changes: dict[str, Any],
    warned: bool,
    tiny: Callable[..., Config],
    photos: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny(data__source=str(photos), **changes)
    assert (diagnosis.forewarning(config) is not None) == warned
    session.new(config, "cpu")
    assert ("so its scores will grow without end" in caplog.text) == warned


def test_the_start_of_a_run_says_nothing() -> None:
    rows = rows_with(diversity=0.0)
    assert next(row["step"] for i, row in enumerate(rows) if names(rows[: i + 1])) == 600


def test_a_sign_must_last_for_the_whole_window() -> None:
    rows = rows_with(diversity=0.0)
    rows[15]["diversity"] = 0.5
    assert names(rows) == []
    rows[13]["diversity"], rows[15]["diversity"] = 0.5, 0.0
    assert names(rows) == ["mode collapse"]


def test_a_row_without_the_figure_says_nothing() -> None:
    for name, ill in (("diversity", {"diversity": 0.0}), ("fake_outside", WON)):
        rows = rows_with(**ill)
        rows[-2][name] = None
        assert names(rows) == []


def test_rows_of_older_versions_or_too_few_of_them_say_nothing() -> None:
    assert names([]) == []
    assert names([{"step": 50 * i, "d_loss": 0.0} for i in range(1, 21)]) == []
    assert names(rows_with(diversity=0.0)[-6:]) == []
    assert names(rows_with(diversity=0.0)[-7:]) == ["mode collapse"]


def test_a_lower_rate_or_slower_batch_norm_makes_the_window_longer(
    tiny: Callable[..., Config], tiny_resnet: Callable[..., Config]
) -> None:
    assert checkup.window_of(tiny(optim__g_lr=8e-4)) == 300
    assert checkup.window_of(tiny(optim__g_lr=2e-4)) == 1200
    assert checkup.window_of(tiny(optim__g_lr=1e-4, optim__batch_size=64)) == 150  # 9,600 images
    assert checkup.window_of(tiny_resnet(model__batch_norm_momentum=1e-3)) == 10_000


def checked(rows: list[Row], config: Config, faces: np.ndarray) -> list[tuple[int, str]]:
    """What begins when, in a run that writes `rows` and is resumed after every seventh."""
    begun, written, untrained = [], [], state.create(config, CPU)
    for i, row in enumerate(rows):
        if i % 7 == 0:
            checked_up = Checkup(config, inputs_of(faces, config), written)
            checked_up.diversity.of = lambda _: row["diversity"]  # type: ignore[method-assign]  # noqa: B023
        written.append(dict(row))
        for new in checked_up.complete(written[-1], untrained, untrained.generator_ema):
            begun.append((row["step"], new.name))
    return begun


def test_a_disease_is_told_once_when_it_begins_also_by_resumed_runs(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny(train__log_every=50, optim__g_lr=8e-4)
    rows = rows_with(60, diversity=0.0)
    rows[30]["diversity"] = 0.5  # step 1550; over for a window
    assert checked(rows, config, faces) == [(600, "mode collapse"), (1850, "mode collapse")]


def test_a_row_that_a_stop_cut_short_has_no_say(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny(train__log_every=50, optim__g_lr=8e-4)
    rows = rows_with(20, diversity=0.0)
    rows.insert(10, {**rows[10], "step": 512, "diversity": 0.9})
    assert checked(rows, config, faces) == [(600, "mode collapse")]


RECORDED = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
ILL = {
    "avatars-100": {"D memorises"},
    "avatars-100-others": {"D memorises"},
    "exploding-wasserstein": {"scores explode"},
    "non-saturating-frozen-g": {"discriminator overpowers"},
    "weak-d": {"discriminator too weak"},
    "constant-noise": {"mode collapse"},
    "frozen-d": {"discriminator too weak"},
    "frozen-g": {"discriminator overpowers"},
    "no-spectral-norm": {"discriminator overpowers"},
    "non-saturating-no-spectral-norm": {"discriminator overpowers", "mode collapse"},
}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["run"])
def test_recorded_runs_raise_their_alarms_and_healthy_ones_none(recorded: dict[str, Any]) -> None:
    """Also with half the warm-up, so that healthy runs are quiet by some margin."""
    run, figures = recorded["run"], recorded["figures"]
    rows = [dict(zip(figures, row, strict=True)) for row in zip(*figures.values(), strict=True)]
    for window in (150, 300):
        found = {
            disease.name
            for count in range(1, len(rows) + 1)
            for disease in diagnose(rows[:count], recorded["loss"], window)
            if disease.alarming
        }
        assert found == ILL.get(run, set()), window


def trained_whole(
    config: Config, images: np.ndarray, name: str, *, resume_at: tuple[int, ...] = ()
) -> runs.Run:
    """A run to config.train.steps, in one go or with stops."""
    run = runs.create(Path(name), "x", config)
    for number, steps in enumerate((*resume_at, config.train.steps)):
        part = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
        trained(run, part, images, resume=number > 0)
    return run


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("tiny", {"train__precision": "fp16"}),
        ("tiny", {"loss__kind": "nonsaturating", "loss__r1": 1.0, "train__precision": "bf16"}),
        ("tiny_resnet", {}),
        ("tiny_resnet", {"loss__kind": "wasserstein", "optim__grad_accumulation": 2, "optim__d_steps_per_g": 2}),
    ],
)  # fmt: skip
def test_a_run_is_the_same_bytes_with_and_without_its_figures(
    family: str, changes: dict[str, Any], request: pytest.FixtureRequest, faces: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config: Config = request.getfixturevalue(family)(**changes, train__log_every=1, train__steps=3)
    measured = trained_whole(config, faces, "measured")
    row = measured.journal.rows()[-1]
    assert set(row) == metrics.Row.__required_keys__  # without scores, which were not asked for
    assert row["diversity"] is not None
    assert (row["d_gradient"] is None) <= (config.train.precision == "fp16")  # steps are skipped
    assert (row["real_outside"] is None) == (config.loss.kind != "hinge")
    nothing = metrics.DMetrics(*[torch.zeros(())] * 8)
    monkeypatch.setattr(step, "d_metrics", lambda *_: nothing)
    monkeypatch.setattr(step, "gradient_norm", lambda *_: torch.zeros(()))
    monkeypatch.setattr(metrics, "sigma_drift", lambda *_: None)
    for kind in (Diversity, ClassDiversity):
        monkeypatch.setattr(kind, "__init__", lambda *_: None)
        monkeypatch.setattr(kind, "of", lambda *_: None)
    blind = trained_whole(config, faces, "blind")
    assert sections(measured.newest_checkpoint()) == sections(blind.newest_checkpoint())


@pytest.fixture
def always_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are enough for a diagnosis, and no images are varied enough."""
    monkeypatch.setattr(checkup, "TRAVEL", 0.0)
    monkeypatch.setattr(checkup, "FORGOTTEN", 0.2)
    monkeypatch.setattr(diagnosis, "COLLAPSED", 1e9)


def alarms(run: runs.Run) -> list[tuple[int, str]]:
    rows = [json.loads(row) for row in (run.folder / "history.jsonl").read_text().splitlines()]
    return [(row["step"], row["name"]) for row in rows if row["event"] == "alarm"]


@pytest.mark.usefixtures("always_ill")
@pytest.mark.parametrize("resume_at", [(), (2, 3), (5,)])
def test_an_alarm_warns_once_and_a_resumed_run_gives_the_same(
    tiny: Callable[..., Config],
    faces: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    resume_at: tuple[int, ...],
) -> None:
    config = tiny(train__log_every=1, train__steps=8)
    run = trained_whole(config, faces, "run", resume_at=resume_at)
    assert alarms(run) == [(4, "mode collapse")]
    assert [bool(row["alarms"]) for row in run.journal.rows()] == [False] * 3 + [True] * 5
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith("mode collapse: since step 3 images from fixed noise")
    status = json.loads((run.folder / "status.json").read_text())
    assert status["alarms"] == ["mode collapse"]


@pytest.mark.usefixtures("always_ill")
def test_an_alarm_may_stop_the_run_after_a_save(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny(
        train__log_every=1, train__steps=8, train__checkpoint_every=100, health__on_alarm="stop"
    )
    run = runs.create(Path("run"), "x", config)
    with pytest.raises(AlarmError, match="stopped and saved at step 4, mode collapse: ") as caught:
        trained(run, config, faces)
    assert caught.value.exit_code == 9
    assert "lower optim.g_lr" in (caught.value.hint or "")
    assert "`ganctl resume run` goes on all the same" in (caught.value.hint or "")
    assert run.newest_checkpoint().name == "step-000000004.pt"
    trained(run, config, faces, resume=True)  # the disease is known by now
    assert run.newest_checkpoint().name == "step-000000008.pt"


@pytest.mark.usefixtures("always_ill")
def test_an_alarm_at_the_last_step_is_no_success(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny(train__log_every=1, train__steps=4, health__on_alarm="stop")
    run = runs.create(Path("run"), "x", config)
    with pytest.raises(AlarmError, match="stopped and saved at step 4, mode collapse: ") as caught:
        trained(run, config, faces)
    assert "lower optim.g_lr" in (caught.value.hint or "")
    assert "resume" not in (caught.value.hint or "")  # there is nothing to go on to
    assert run.newest_checkpoint().name == "step-000000004.pt"


@pytest.mark.usefixtures("always_ill")
def test_stopping_at_an_alarm_by_command(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train", "--data", str(photos), "--run", "r", "--steps", "8", "--batch-size", "4",
        "--precision", "fp32", "--set", "model.width=8", "--set", "train.log_every=1",
    ]  # fmt: skip
    assert main([*command, "--set", "health.on_alarm=stop"]) == 9
    err = capsys.readouterr().err
    assert "warning: mode collapse: since step 3 " in err
    assert "error: stopped and saved at step 4, mode collapse: since step 3 " in err
    assert "lower optim.g_lr" in err
    assert "`ganctl resume r` goes on all the same" in err
    status = json.loads(Path("r/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 9)
    assert status["alarms"] == ["mode collapse"]
    events = [json.loads(row)["event"] for row in Path("r/history.jsonl").read_text().splitlines()]
    assert events == ["started", "alarm", "saved", "stopped"]
    text = Path("r/config.yaml").read_text()
    Path("r/config.yaml").write_text(text.replace("on_alarm: stop", "on_alarm: warn"))
    assert main(["resume", "r"]) == 0
    assert "alarm mode collapse" in capsys.readouterr().err
    assert json.loads(Path("r/status.json").read_text())["state"] == "done"


def test_a_word_is_said_once_and_ends_no_run(
    tiny: Callable[..., Config], faces: np.ndarray, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    monkeypatch.setattr(checkup, "TRAVEL", 0.0)
    monkeypatch.setattr(checkup, "FORGOTTEN", 0.2)
    monkeypatch.setattr(Diversity, "of", lambda *_: 0.2)
    config = tiny(train__log_every=1, train__steps=8, health__on_alarm="stop")
    run = trained_whole(config, faces, "run")
    assert caplog.text.count("low diversity: since step 3 ") == 1
    events = [json.loads(row) for row in (run.folder / "history.jsonl").read_text().splitlines()]
    assert [e["name"] for e in events if e["event"] == "word"] == ["low diversity"]
    assert alarms(run) == []
    assert all(row["alarms"] == [] for row in run.journal.rows())


def test_the_diversity_within_classes_is_that_of_each_class(
    tiny_resnet: Callable[..., Config], crowd: np.ndarray
) -> None:
    """A generator that draws one image a class is as varied as classes are, but not within them."""
    config = tiny_resnet()
    batches = batches_of(crowd, config)
    found = ClassDiversity(config, batches)
    assert sorted(found.yardsticks) == [0, 1, 2]
    assert batches.labels is not None
    by_class = [batches.images[batches.labels == label][:16] for label in range(3)]

    class OfClass(Drawn):
        def forward(self, z: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
            return self.images[labels[0]]

    real = torch.stack([Pixels(torch.from_numpy(i), None, None).images() for i in by_class])
    assert found.of(OfClass(real)) == pytest.approx(1)  # type: ignore[arg-type]
    alike = real[:, :1].expand(-1, 16, -1, -1, -1)
    assert found.of(OfClass(alike)) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
    assert found.of(OfClass(alike * torch.nan)) is None  # type: ignore[arg-type]


def test_classes_of_a_few_images_and_models_without_classes_have_none(
    tiny_resnet: Callable[..., Config], tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    for config, images in ((tiny(), crowd), (tiny_resnet(), crowd[:12])):
        assert ClassDiversity(config, batches_of(images, config)).yardsticks == {}


def test_the_panel_shows_health_and_alarms(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(width=160, file=io.StringIO(), record=True, force_terminal=True)
    monkeypatch.setattr(show, "console", screen)
    run = trained_whole(tiny(train__steps=2, train__log_every=2), faces, "run")
    row = run.journal.rows()[-1]
    with watching.watcher("run", 0, 2, 2) as panel:
        panel.measured({**row, "diversity": 0.12, "alarms": ["mode collapse"]})
    text = screen.export_text()
    for shown in ("diversity", "0.12", "alarm", "mode collapse", "outside margins", "sigma drift"):
        assert shown in text
