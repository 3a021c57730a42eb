"""Choices that depend on the machine, and random streams that do not."""

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


def test_streams_differ_by_seed_purpose_and_position_only() -> None:
    def drawn(*arguments: object) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=runtime.random_stream(*arguments)).tolist())  # type: ignore[arg-type]

    torch.manual_seed(1)
    first = drawn(0, "a", 1, 2)
    torch.manual_seed(2)
    assert drawn(0, "a", 1, 2) == first
    others = {drawn(1, "a", 1, 2), drawn(0, "b", 1, 2), drawn(0, "a", 12), drawn(0, "a", 2, 1)}
    assert len(others | {first}) == 5
