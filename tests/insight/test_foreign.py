"""Weights of other people's networks: found under every naming, divided by what their code divides by."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import spectral_norm as old_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ganctl.errors import CheckpointError
from ganctl.insight import foreign
from ganctl.models.spectral import add_spectral_norm, normalized_weights
from ganctl.store import checkpoint
from tests.store.test_archive import HOSTILE, document, forge, tensor

Norm = Callable[[nn.Module], nn.Module]


def saved(state: object) -> Path:
    torch.save(state, "other.pth")
    return Path("other.pth")


def only(state: object) -> foreign.ForeignWeight:
    (weight,) = foreign.read(saved(state))
    return weight


def layers_of(state: object) -> list[tuple[str, str]]:
    return [(weight.layer, weight.style) for weight in foreign.read(saved(state))]


class BigGANLinear(nn.Linear):
    """A linear layer after BigGAN-PyTorch's description: one iteration in each pass, u stored."""

    u0: Tensor
    sv0: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("u0", torch.randn(1, n_out))
        self.register_buffer("sv0", torch.ones(1))

    def divided(self) -> Tensor:
        with torch.no_grad():
            v = normalize(self.u0 @ self.weight)
            u = normalize(v @ self.weight.T)
            if self.training:
                self.u0.copy_(u)
        sigma = (v @ self.weight.T @ u.T).squeeze()
        if self.training:
            self.sv0.fill_(sigma.item())
        return self.weight / sigma


class MimicryLinear(nn.Linear):
    """As torch-mimicry stores it: `sn_u` and `sn_sigma`; one iteration in each pass."""

    sn_u: Tensor
    sn_sigma: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("sn_u", torch.randn(1, n_out))
        self.register_buffer("sn_sigma", torch.ones(1))

    def divided(self) -> Tensor:
        with torch.no_grad():
            v = normalize(self.sn_u @ self.weight)
            u = normalize(v @ self.weight.T)
        sigma = (u @ self.weight * v).sum()
        if self.training:
            self.sn_u.copy_(u)
            self.sn_sigma.copy_(sigma.detach())
        return self.weight / sigma


class BarLinear(nn.Module):
    """As a well-known SAGAN stores it: `weight_bar`, `weight_u`, `weight_v`; one iteration in each pass."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_bar = nn.Parameter(torch.randn(n_out, n_in))
        self.weight_u = nn.Parameter(normalize(torch.randn(n_out), dim=0), requires_grad=False)
        self.weight_v = nn.Parameter(normalize(torch.randn(n_in), dim=0), requires_grad=False)

    def divided(self) -> Tensor:
        with torch.no_grad():
            self.weight_v.copy_(normalize(self.weight_bar.T @ self.weight_u, dim=0))
            self.weight_u.copy_(normalize(self.weight_bar @ self.weight_v, dim=0))
        return self.weight_bar / self.weight_u.dot(self.weight_bar @ self.weight_v)


@pytest.mark.parametrize(("kind", "style"), [(MimicryLinear, "mimicry"), (BarLinear, "weight_bar")])
def test_sigma_is_what_modules_that_iterate_divide_by(
    kind: Callable[[int, int], Any], style: str
) -> None:
    torch.manual_seed(3)
    module = kind(7, 5)
    for _ in range(2):
        module.divided()
    module.eval()
    weight = only({f"net.{name}": value.clone() for name, value in module.state_dict().items()})
    assert weight.style == style
    assert weight.layer in ("net", "net.weight")
    sigma = foreign.sigma(weight)
    assert sigma is not None
    torch.testing.assert_close(weight.weight / sigma.float(), module.divided())


@dataclass
class Unknown:
    x: int = 1


def test_what_is_harmless_beside_weights_is_left_out_and_nothing_is_run() -> None:
    import argparse
    import collections
    import datetime
    import decimal
    import fractions
    import uuid

    state = {
        "milestones": collections.Counter([3, 5]), "exact": decimal.Decimal("1.5"), "half": fractions.Fraction(1, 2),
        "id": uuid.UUID(int=7), "part": slice(1, 2), "steps": range(3),
        "args": argparse.Namespace(lr=1e-4, betas=(0.0, 0.9), out=Path("x")), "when": datetime.datetime(2020, 1, 2, 3),
        "loss": np.float64(0.5), "step": np.int64(7), "history": np.ones(3), "size": torch.Size([2]), "kind": torch.float16,
        "device": torch.device("cpu"), "seen": {1, 2}, "count": collections.defaultdict(list, a=[1]),
        "model": {"weight": torch.ones(2, 3)},
    }  # fmt: skip
    assert layers_of(state) == [("model", "plain")]


def test_one_tensor_is_no_dictionary_of_them() -> None:
    with pytest.raises(CheckpointError, match="is one tensor, not a state dictionary"):
        foreign.read(saved(torch.ones(3, 3)))


def test_what_is_not_known_is_refused() -> None:
    for value in (Unknown(), print, Path.unlink, re.compile("x")):
        with pytest.raises(CheckpointError, match="cannot be loaded safely"):
            foreign.read(saved({"weight": torch.ones(2, 2), "x": value}))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(7, 5),
    "square linear": lambda: nn.Linear(6, 6),
    "conv1d": lambda: nn.Conv1d(3, 4, 3),
    "conv2d": lambda: nn.Conv2d(3, 5, 3),
    "square conv2d": lambda: nn.Conv2d(8, 8, 3),
    "conv3d": lambda: nn.Conv3d(2, 3, 2),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 4),
    "square transposed": lambda: nn.ConvTranspose2d(8, 8, 3),
}
NORMS: dict[str, tuple[Norm, str, str]] = {
    "torch": (spectral_norm, "parametrization", "parametrizations.weight.original"),
    "old": (old_norm, "old torch", "weight_orig"),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", MODULES)
def test_sigma_is_what_torchs_own_module_divides_by(kind: str, norm: str) -> None:
    torch.manual_seed(len(kind))
    make, style, raw_name = NORMS[norm]
    module = make(MODULES[kind]())
    shape = [4, module.get_parameter(raw_name).shape[int("transposed" not in kind)]]
    x = torch.randn(*shape, *[6] * (module.get_parameter(raw_name).ndim - 2))
    for _ in range(3):
        module(x)
    with torch.no_grad():  # as if after a step of training: u and v are a step behind
        module.get_parameter(raw_name).add_(torch.randn_like(module.get_parameter(raw_name)) / 50)
    module.eval()(x)

    weight = only(module.state_dict())

    raw = module.get_parameter(raw_name)
    assert (weight.layer, weight.style) == ("weight", style)
    assert isinstance(module.weight, Tensor)
    sigma = foreign.sigma(weight)
    assert sigma is not None
    assert sigma.dtype == torch.float64
    torch.testing.assert_close(raw / sigma.float(), module.weight)
    torch.testing.assert_close(weight.weight, raw.transpose(0, 1) if "transposed" in kind else raw)
    assert sigma <= torch.linalg.svdvals(weight.weight.double().flatten(1))[0] * (1 + 1e-6)


def test_sigma_is_what_a_biggan_divides_by() -> None:
    torch.manual_seed(0)
    layer = BigGANLinear(7, 5)
    for _ in range(2):  # few enough that one iteration more or less makes a difference
        layer.divided()
    layer.eval()
    weight = only(layer.state_dict())
    sigma = foreign.sigma(weight)
    assert sigma is not None
    assert weight.style == "BigGAN"
    assert weight.u is not None
    assert weight.u.shape == (5,)
    assert weight.v is None
    torch.testing.assert_close(layer.weight / sigma.float(), layer.divided())
    assert abs(sigma - layer.sv0) > 1e-4  # that is of the iteration before


def test_a_square_biggan_convolution_is_never_transposed() -> None:
    torch.manual_seed(1)
    for _ in range(20):
        w, u = torch.randn(4, 4, 3, 3), torch.randn(1, 4)
        torch.testing.assert_close(only({"c.weight": w, "c.u0": u}).weight, w)


def test_sigma_of_our_own_weights() -> None:
    torch.manual_seed(0)
    layer = add_spectral_norm(nn.Conv2d(4, 4, 3))
    ((_, raw, norm),) = normalized_weights(layer)
    weight = only({"g": layer.state_dict()})
    assert (weight.layer, weight.style) == ("g", "parametrization")
    sigma = foreign.sigma(weight)
    assert sigma is not None
    torch.testing.assert_close(sigma.float(), norm.sigma(raw))


def test_without_v_it_is_half_an_iteration_and_the_divided_copy_is_no_layer() -> None:
    raw = torch.diag(torch.tensor([3.0, 4.0]))
    state = {"l.weight_orig": raw, "l.weight": raw / 4, "l.weight_u": torch.tensor([0.0, 2.0])}
    weight = only(state)
    assert (weight.layer, weight.style, weight.v) == ("l", "old torch", None)
    sigma = foreign.sigma(weight)
    assert sigma is not None
    assert sigma.item() == 4


def test_plain_weights_are_taken_in_order_and_nothing_else() -> None:
    network = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), table=nn.Embedding(4, 5))
    )
    state = network.state_dict() | {
        "noise": torch.zeros(2, 2),
        "steps.weight": torch.ones(2, 2).int(),
    }
    weights = foreign.read(saved(state))
    assert [(w.layer, w.style, w.u) for w in weights] == [
        ("conv", "plain", None),
        ("table", "plain", None),
    ]
    assert torch.equal(weights[0].weight, network.conv.weight)
    assert foreign.sigma(weights[0]) is None


def test_nested_dicts_prefix_their_layers_and_optimizers_are_left_out() -> None:
    g = nn.Sequential(old_norm(nn.Linear(3, 2)), spectral_norm(nn.ConvTranspose2d(2, 3, 3)))
    d = nn.Sequential(BigGANLinear(3, 2), nn.Linear(2, 1))
    optimizer = torch.optim.Adam(d.parameters())
    sum(p.sum() for p in d.parameters()).backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"]["c.weight"] = torch.ones(2, 2)
    names = [("0", "old torch"), ("1", "parametrization")], [("0", "BigGAN"), ("1", "plain")]
    assert layers_of({"state_dict": g.state_dict(), "epoch": 3, "best": None}) == [
        (f"state_dict.{layer}", style) for layer, style in names[0]
    ]
    assert layers_of(
        {"epoch": 3, "optimizer": state, "nets": {"G": g.state_dict(), "D": d.state_dict()}}
    ) == [
        *((f"nets.G.{layer}", style) for layer, style in names[0]),
        *((f"nets.D.{layer}", style) for layer, style in names[1]),
    ]


def test_a_weight_of_another_name_and_a_whole_parameter_are_found() -> None:
    cell = old_norm(nn.GRUCell(3, 2), name="weight_hh")
    assert layers_of(cell.state_dict()) == [("weight_hh", "old torch")]
    assert layers_of({"a.weight": nn.Parameter(torch.ones(2, 3))}) == [("a", "plain")]


def test_other_parametrizations_are_left_out() -> None:
    network = nn.Sequential(
        weight_norm(nn.Linear(3, 2)), nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    )
    with pytest.raises(CheckpointError, match="no weight of two or more dimensions"):
        foreign.read(saved(network.state_dict()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_kept_and_computed_with_in_float64(dtype: torch.dtype) -> None:
    module = spectral_norm(nn.Linear(40, 30)).to(dtype)
    weight = only(module.state_dict())
    assert weight.weight.dtype == dtype
    assert weight.u is not None
    assert weight.v is not None
    sigma = foreign.sigma(weight)
    assert sigma is not None
    torch.testing.assert_close(
        sigma, weight.u.double() @ weight.weight.double() @ weight.v.double()
    )


def test_tensors_that_share_or_reorder_a_storage() -> None:
    both = torch.arange(24.0)
    state = {
        "a.weight": both[:12].view(3, 4), "b.weight": both[12:].view(2, 6).T, "c.weight": both[::2].view(3, 4),
        "d.weight": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }  # fmt: skip
    weights = foreign.read(saved(state))
    for weight, (_, value) in zip(weights, state.items(), strict=True):
        assert torch.equal(weight.weight, value)
    assert len({weight.weight.untyped_storage().data_ptr() for weight in weights[:3]}) == 1


def test_a_tensor_saved_on_another_device(tmp_path: Path) -> None:
    content = document(tensor(4, (2, 2), (2, 1))).replace(
        b"}X\x01\x00\x00\x00g", b"}X\x06\x00\x00\x00weight"
    )
    cuda = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
    assert cuda != content
    path = forge(tmp_path / "x.pt", cuda, {"archive/data/0": torch.arange(4.0).numpy().tobytes()})
    assert foreign.read(path)[0].weight.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_before_torch_sees_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, members, _ = HOSTILE[kind]
    path = forge(tmp_path / "evil.pt", content, members)
    for makes_tensors in ("load", "empty", "frombuffer"):
        monkeypatch.setattr(torch, makes_tensors, lambda *_, **__: pytest.fail("torch saw it"))
    with pytest.raises(CheckpointError):
        foreign.read(path)


WEIGHT = b"}X\x06\x00\x00\x00weight"
FORGED: dict[str, tuple[bytes, int, str]] = {
    "a view past its end": (tensor(4, (2, 2), (2, 1), offset=1), 16, "larger than its bytes"),
    "strides past its end": (tensor(4, (2, 2), (3, 1)), 16, "larger than its bytes"),
    "a million by a million of one": (tensor(1, (10**6, 10**6), (0, 0)), 4, "larger than its bytes"),
    "a negative stride": (tensor(4, (2, 2), (-2, 1)), 16, "a malformed tensor"),
    "a negative offset": (tensor(4, (2, 2), (2, 1), offset=-1), 16, "a malformed tensor"),
    "a stride too few": (tensor(4, (2, 2), (2,)), 16, "a malformed tensor"),
    "a missing item": (tensor(4, (2, 2), (2, 1)), 12, "another size"),
    "attributes of a list": (b"]}b", 4, "an object in it"),
    "attributes that are no dict": (b"}Nb", 4, "an object in it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_no_tensor_is_larger_than_its_bytes(kind: str, tmp_path: Path) -> None:
    value, count, reason = FORGED[kind]
    path = forge(
        tmp_path / "evil.pt", b"\x80\x02" + WEIGHT + value + b"s.", {"archive/data/0": bytes(count)}
    )
    with pytest.raises(CheckpointError, match=reason):
        foreign.read(path)


def test_a_ganctl_checkpoint_is_still_read_as_strictly_as_before(tmp_path: Path) -> None:
    """What a foreign file may have, ours may not."""
    whole = tensor(4, (2, 2), (2, 1))
    for value in (
        tensor(4, (2, 2), (1, 2)),
        whole.replace(b"\x03\x00\x00\x00cpu", b"\x04\x00\x00\x00cuda"),
        b"}}b",
    ):
        path = forge(
            tmp_path / "x.pt", b"\x80\x02" + WEIGHT + value + b"s.", {"archive/data/0": bytes(16)}
        )
        with pytest.raises(CheckpointError, match="cannot be loaded safely"):
            checkpoint.read(path)


def test_names_that_grow_without_end_are_refused() -> None:
    state: dict[str, object] = {"weight": torch.ones(2, 2)}
    for _ in range(3):
        state = {"k" * 400: state}
    with pytest.raises(CheckpointError, match="a longer name"):
        foreign.read(saved(state))


def test_many_views_of_one_storage_take_no_more_time_than_the_file_is_large(tmp_path: Path) -> None:
    """Tied weights are views as well, but a few."""
    tied = torch.ones(8, 8)
    weights = foreign.read(saved({"in.weight": tied, "out.weight": tied, "t.weight": tied.T}))
    assert len(weights) == 3
    storage = torch.ones(10_000)
    big = {f"{n}.weight": storage.view(100, 100) for n in range(50)}
    with pytest.raises(CheckpointError, match="larger than the file"):
        foreign.read(saved(big))


def test_more_weights_than_any_network_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MAX_WEIGHTS", 3)
    with pytest.raises(CheckpointError, match="more than 3 weights"):
        foreign.read(saved({f"{n}.weight": torch.ones(2, 2) for n in range(4)}))


@pytest.mark.parametrize("name", ["weight", "weight_u", "weight_v"])
def test_values_that_are_not_finite_name_their_layer(name: str) -> None:
    module = nn.Sequential(old_norm(nn.Linear(3, 2)))
    state = module.state_dict()
    state[f"0.{name}" if name != "weight" else "0.weight_orig"].view(-1)[-1] = torch.nan
    with pytest.raises(CheckpointError, match="layer 0 has values that are not finite"):
        foreign.read(saved({**state}))


def test_another_dimension_than_usual_is_seen_in_us_length() -> None:
    module = spectral_norm(nn.Linear(7, 5), dim=1).eval()
    sigma = foreign.sigma(only(module.state_dict()))
    assert sigma is not None
    torch.testing.assert_close(
        module.parametrizations.weight.original / sigma.float(), module.weight
    )


def test_vectors_that_do_not_fit_are_refused() -> None:
    for u, v in ((3, 3), (2, 2), (4, 3)):
        state = {
            "l.weight_orig": torch.ones(2, 3),
            "l.weight_u": torch.ones(u),
            "l.weight_v": torch.ones(v),
        }
        with pytest.raises(CheckpointError, match=r"layer l does not fit .* \(2, 3\)"):
            foreign.read(saved(state))


def test_files_that_are_no_state_dictionary_say_what_they_are() -> None:
    linear = nn.Linear(2, 2)
    torch.save(linear.state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    torch.save(linear, "module.pth")
    torch.save([linear.state_dict()] * 2, "list.pth")
    np.savez("arrays.npz", weight=np.ones((2, 2)))
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with zipfile.ZipFile("script.pt", "w", zipfile.ZIP_DEFLATED) as made:
        for member in ("data.pkl", "code/__torch__.py", "constants.pkl"):
            made.writestr(f"script/{member}", b"")
    with zipfile.ZipFile("big.pth", "w") as made:
        made.writestr("big/data.pkl", b"\x80\x02N.")
        made.writestr("big/byteorder", b"big")
    Path("cut.pth").write_bytes(saved(linear.state_dict()).read_bytes()[:-100])
    Path("text.pth").write_text("weights")
    Path("none.pth").write_bytes(b"")
    messages = {
        "old.pth": ("before 1.6", "torch.save it again"),
        "module.pth": (
            r"is a whole module \(torch.nn.modules.linear.Linear\)",
            "module.state_dict()",
        ),
        "list.pth": ("is a list of dictionaries, not one", "one of them"),
        "arrays.npz": ("is a NumPy archive", "from_numpy"),
        "x.safetensors": ("has no weight of two or more dimensions", None),
        "script.pt": ("TorchScript", "state_dict()"),
        "big.pth": ("byte order", None),
        "cut.pth": ("damaged or cut short", "module.state_dict()"),
        "text.pth": ("no zip archive", "module.state_dict()"),
        "none.pth": ("no zip archive", "module.state_dict()"),
        "missing.pth": ("No such file", None),
        ".": ("is a folder", "a run's folder"),
    }
    for name, (message, hint) in messages.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            foreign.read(Path(name))
        assert (hint or "") in (caught.value.hint or ""), name


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        {"bias": torch.ones(2)},
        {"weight": torch.ones(0, 2)},
        {3: torch.ones(2, 2)},
    ],
)
def test_a_file_without_weights_is_refused(state: object) -> None:
    with pytest.raises(CheckpointError, match="no weight of two or more dimensions"):
        foreign.read(saved(state))
