"""Choices that depend on the machine, and random streams that do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ganctl import runtime
from ganctl.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu sse avx512_bf16 avx512f", "bf16"),
        ("flags : fpu amx_bf16", "bf16"),
        ("Features : fp asimd bf16", "bf16"),
        ("flags : fpu sse avx2", "fp32"),
    ],
)
def test_auto_is_bf16_where_the_processor_multiplies_in_it(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n")
    has_bf16 = runtime._cpu_has_bf16(cpuinfo)
    monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda: has_bf16)
    assert runtime.choose_precision("auto", CPU) == expected
    assert runtime.choose_precision("fp32", CPU) == "fp32"


def test_without_the_file_the_answer_is_fp32(tmp_path: Path) -> None:
    assert not runtime._cpu_has_bf16(tmp_path / "none")


def test_a_missing_device_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert runtime.choose_device("auto").type in ("cpu", "mps")
    with pytest.raises(ConfigError, match="this machine has no cuda device"):
        runtime.choose_device("cuda")


def test_one_of_several_gpus_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.choose_device("auto") == torch.device("cuda")
    assert runtime.choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="this machine has no cuda:2 device") as caught:
        runtime.choose_device("cuda:2")
    assert caught.value.hint == "its devices are cuda:0 to cuda:1"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", ""])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no device"):
        runtime.choose_device(name)


@pytest.fixture
def own_switches() -> Iterator[None]:
    """The switches of torch are there without a GPU as well; afterwards they are as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("own_switches")
@pytest.mark.parametrize(
    ("precision", "expected"), [("tf32", True), ("fp32", False), ("bf16", False)]
)
def test_fp32_is_fp32_unless_tf32_is_asked_for(
    precision: runtime.Precision, expected: bool
) -> None:
    runtime.prepare(torch.device("cuda"), precision)
    switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert switches == (expected, expected)


def test_tf32_is_for_one_kind_of_device() -> None:
    assert runtime.choose_precision("tf32", torch.device("cuda")) == "tf32"
    with pytest.raises(ConfigError, match="tf32 is for NVIDIA's GPUs"):
        runtime.choose_precision("tf32", CPU)


@pytest.mark.usefixtures("own_switches")
def test_deterministic_asks_torch_for_it_and_the_next_run_is_free_again() -> None:
    for wanted in (True, False):
        runtime.prepare(torch.device("cuda"), deterministic=wanted)
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert torch.backends.cudnn.benchmark is not wanted


def test_streams_differ_by_seed_purpose_and_position_only() -> None:
    def drawn(*arguments: object) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=runtime.random_stream(*arguments)).tolist())  # type: ignore[arg-type]

    torch.manual_seed(1)
    first = drawn(0, "a", 1, 2)
    torch.manual_seed(2)
    assert drawn(0, "a", 1, 2) == first
    others = {drawn(1, "a", 1, 2), drawn(0, "b", 1, 2), drawn(0, "a", 12), drawn(0, "a", 2, 1)}
    assert len(others | {first}) == 5
