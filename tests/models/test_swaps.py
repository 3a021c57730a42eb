"""What is put in where it pays: the same function, kept by copies, and decided once a machine."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganctl.cache import cache_folder
from ganctl.models import Discriminator, Generator, build_networks, swaps, winograd
from ganctl.models.layers import upsample_conv
from ganctl.models.swaps import CHUNKED, OWN_BACKWARD, PLAIN, WINOGRAD, Swaps
from ganctl.runtime import random_stream
from ganctl.settings.config import Config

CPU = torch.device("cpu")
ALL = Swaps(WINOGRAD, CHUNKED, OWN_BACKWARD)
Tiny = Callable[..., Config]


@pytest.fixture(params=["tiny", "tiny_resnet"])
def pair(request: pytest.FixtureRequest) -> tuple[Generator, Discriminator]:
    """G and D of each architecture in double precision, with attention that shows."""
    config = request.getfixturevalue(request.param)()
    networks = build_networks(config.model, config.data, random_stream(0, "init"), 3)
    for network in networks:
        network.double().to(memory_format=torch.channels_last)
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(parameter, 0.5)
    return networks


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's convolution even for networks of few channels."""
    monkeypatch.setattr(winograd, "WORTH", 0)


@pytest.fixture
def new_process() -> Callable[[], None]:
    """Forgets what this process has measured; done once before the test."""
    swaps._remembered.cache_clear()
    return swaps._remembered.cache_clear


def forward(generator: nn.Module, discriminator: nn.Module, conditional: bool) -> Tensor:
    """Scores of two drawn images: (2,)."""
    z = torch.linspace(-1, 1, 16, dtype=torch.float64).view(2, 8)
    labels = (torch.tensor([0, 2]),) if conditional else ()
    return discriminator(generator(z, *labels), *labels)


def operations(scores: Tensor) -> set[str]:
    """The names of all operations that the backward pass of `scores` goes through."""
    found, waiting = set(), [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in found}


OURS = {"_ConvolveBackward", "_WindowMeansBackward", "_LeakyReLUPoolBackward"}


@pytest.mark.usefixtures("any_width")
def test_networks_are_plain_until_swaps_are_applied_and_after_they_are_taken_out(
    pair: tuple[Generator, Discriminator],
) -> None:
    conditional = pair[0].n_classes > 0
    plain = operations(forward(*pair, conditional))
    assert not OURS & plain
    assert any("ScaledDotProduct" in name for name in plain)
    swaps.apply(ALL, *pair)
    swapped = operations(forward(*pair, conditional))
    expected = OURS - {"_LeakyReLUPoolBackward" if conditional else "_WindowMeansBackward"}
    assert OURS & swapped == expected
    assert not any("ScaledDotProduct" in name for name in swapped)
    swaps.apply(Swaps(), *pair)
    assert operations(forward(*pair, conditional)) == plain


@pytest.mark.usefixtures("any_width")
def test_swaps_change_neither_the_function_nor_what_a_checkpoint_holds(
    pair: tuple[Generator, Discriminator],
) -> None:
    weights = [parameter for network in pair for parameter in network.parameters()]
    names = [list(network.state_dict()) for network in pair]
    results = []
    for chosen in (Swaps(), ALL):
        swaps.apply(chosen, *pair)
        scores = forward(*pair, pair[0].n_classes > 0)
        results.append((scores, torch.autograd.grad(scores.square().sum(), weights)))
    torch.testing.assert_close(results[1], results[0])
    assert [list(network.state_dict()) for network in pair] == names


@pytest.mark.usefixtures("any_width")
def test_a_copy_computes_as_its_original_does(pair: tuple[Generator, Discriminator]) -> None:
    conditional = pair[0].n_classes > 0
    swaps.apply(ALL, *pair)
    copies = [copy.deepcopy(network) for network in pair]
    swapped = operations(forward(*copies, conditional))
    assert swapped == operations(forward(*pair, conditional))
    swaps.apply(Swaps(), *pair)
    assert operations(forward(*copies, conditional)) == swapped


def test_what_is_chosen_for_a_device_and_a_precision(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    narrow, _ = build_networks(config.model, config.data, random_stream(0, "init"))
    broad = upsample_conv(128, 64, 5)  # a 3 x 3 convolution of 128 to 256 channels
    monkeypatch.setattr(swaps, "winograd_pays", lambda: True)
    assert swaps.choose(torch.device("cuda"), "fp32", broad) == Swaps()
    assert swaps.choose(torch.device("cuda"), "bf16", broad) == Swaps()
    assert swaps.choose(CPU, "bf16", broad) == Swaps(PLAIN, CHUNKED, OWN_BACKWARD)
    assert swaps.choose(CPU, "fp32", narrow, broad) == Swaps(WINOGRAD, PLAIN, OWN_BACKWARD)
    monkeypatch.setattr(swaps, "winograd_pays", lambda: pytest.fail("measured for nothing"))
    transposed = upsample_conv(128, 256, 3)
    assert swaps.choose(CPU, "fp32", narrow, transposed) == Swaps(PLAIN, PLAIN, OWN_BACKWARD)
    assert swaps.choose(CPU, "bf16", broad).convolution == PLAIN


@pytest.mark.parametrize(("ratio", "pays"), [(0.6, True), (0.95, False), (1.3, False)])
def test_a_machine_is_measured_once(
    ratio: float, pays: bool, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "measured_ratio", lambda: ratio)
    assert swaps.winograd_pays() is pays
    monkeypatch.setattr(swaps, "measured_ratio", lambda: pytest.fail("measured again"))
    assert swaps.winograd_pays() is pays
    new_process()
    assert swaps.winograd_pays() is pays


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"pays": 1}', "\udcff"])
def test_a_damaged_record_is_measured_anew(
    damage: str, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "measured_ratio", lambda: 2.0)
    assert not swaps.winograd_pays()
    (path,) = (cache_folder() / "winograd").iterdir()
    path.write_text(damage, errors="surrogateescape")
    monkeypatch.setattr(swaps, "measured_ratio", lambda: 0.5)
    new_process()
    assert swaps.winograd_pays()
    assert json.loads(path.read_text())["pays"] is True


@pytest.mark.usefixtures("new_process")
def test_where_nothing_can_be_kept_the_process_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "file"))
    ratios = iter([0.5])
    monkeypatch.setattr(swaps, "measured_ratio", lambda: next(ratios))
    assert swaps.winograd_pays()
    assert swaps.winograd_pays()


def test_measuring_leaves_the_process_as_it_was() -> None:
    random_state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            assert 0.01 < swaps.measured_ratio() < 100
            assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)  # as conftest.py has it
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_record_is_read_back_and_unknown_words_are_plain() -> None:
    assert Swaps.recorded(json.loads(json.dumps(ALL._asdict()))) == ALL
    assert Swaps.recorded(Swaps()._asdict()) == Swaps()
    odd = {"convolution": "fft", "attention": 3, "pooling": None, "threads": 2}
    assert Swaps.recorded(odd) == Swaps()
    assert Swaps.recorded({"attention": CHUNKED}) == Swaps(attention=CHUNKED)
