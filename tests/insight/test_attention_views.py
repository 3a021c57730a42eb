"""What inspect-attention finds, asked for from Python; and on a GPU, where there is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, batches_of

from ganctl.errors import ConfigError
from ganctl.insight import attention_views
from ganctl.insight.attention_views import Findings
from ganctl.sampling.draw import Point
from ganctl.settings.config import Config
from ganctl.store import checkpoint
from ganctl.training import state

CPU = torch.device("cpu")
CLASSES = ["boot", "dress", "shirt"]
POINTS = [Point(3, 0), Point(4, 1), Point(5, 2)]


@pytest.fixture
def config(tiny_resnet: Callable[..., Config]) -> Config:
    return tiny_resnet()


def save(config: Config) -> Path:
    """The checkpoint of a conditional run before its first step."""
    created = state.create(config, CPU, N_CLASSES)
    data = {"source": "x", "n": 12, "fingerprint": "c", "classes": CLASSES, "labels": "d"}
    metadata = {"run": {"id": "a", "name": "b"}, **state.describe(created, config, CPU, data)}
    checkpoint.write(Path("x.pt"), created.payload(), metadata)
    return Path("x.pt")


def found(
    config: Config, faces: np.ndarray, device: torch.device, counted: list[tuple[int, int]]
) -> Findings:
    """Both networks at three generated images, and D at twelve real ones; two are shown of each."""
    subject = attention_views.open_checkpoint(save(config), ["g", "d"], raw=False, device=device)
    views = attention_views.generated_views(subject, POINTS, 2)
    real = batches_of(faces, config, device.type)
    views.append(attention_views.real_view(subject, real, 99, 2))
    return attention_views.look(
        subject, views, queries=[], shown=2, progress=lambda *count: counted.append(count)
    )


def test_each_view_has_a_report_and_its_rows_have_names(config: Config, faces: np.ndarray) -> None:
    counted: list[tuple[int, int]] = []
    findings = found(config, faces, CPU, counted)
    seen = [(figures.network, figures.data, figures.images) for figures in findings.figures]
    assert seen == [("g", "generated", 3), ("d", "generated", 3), ("d", "real", 12)]
    assert findings.row_names[:2] == [["seed 3\nboot", "seed 4\ndress"]] * 2
    order, _ = batches_of(faces, config).drawn(0, 2)
    labels = [CLASSES[index % N_CLASSES] for index in order]
    assert findings.row_names[2] == [f"real {n}\n{name}" for n, name in enumerate(labels, 1)]
    assert [len(report.glances) for report in findings.reports] == [2, 2, 2]
    assert counted[-1] == (18, 18)


def test_networks_without_attention_are_refused(tiny_resnet: Callable[..., Config]) -> None:
    path = save(tiny_resnet(model__attention={"at": [], "scaled": False, "pooled": True}))
    for names, which in ((["g", "d"], "either network"), (["d"], "D"), (["g"], "G")):
        with pytest.raises(ConfigError, match=rf"there is no attention block in {which} of x\.pt"):
            attention_views.open_checkpoint(path, names, raw=False, device=CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_finds_what_the_cpu_finds(config: Config, faces: np.ndarray) -> None:
    ours, theirs = (found(config, faces, torch.device(name), []) for name in ("cuda", "cpu"))
    assert ours.row_names == theirs.row_names
    for a, b in zip(ours.figures, theirs.figures, strict=True):
        assert a.entropy == pytest.approx(b.entropy, rel=1e-3)
        assert a.distance == pytest.approx(b.distance, rel=1e-3)
