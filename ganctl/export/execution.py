"""A program carried out as a page's script does it.

So what a page will draw can be compared with ganctl's images when it is made.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, leaky_relu, max_pool2d, pad

from ganctl.export.program import Program


@torch.no_grad()
def run(program: Program, z: Tensor, shares: Tensor | None, rounded: torch.dtype) -> Tensor:
    """z (B, latent_dim), shares (B, n_classes) -> images (B, 3, R, R), matrices in `rounded`."""
    matrices = torch.cat(program.matrices).to(rounded).float()
    vectors = torch.cat(program.vectors)
    x, kept = z, z
    for operation in program.operations:
        if operation["kind"] == "keep":
            kept = x
        x = _DO[operation["kind"]](operation, x, kept, shares, matrices, vectors)
        x = x.relu() if operation.get("relu") else x
    return x


def _at(numbers: Tensor, begin: int, *shape: int) -> Tensor:
    return numbers[begin : begin + torch.Size(shape).numel()].view(shape)


def _affine(x: Tensor, matrix: int, bias: int, size: int, matrices: Tensor, v: Tensor) -> Tensor:
    return x @ _at(matrices, matrix, size, x.shape[1]).T + _at(v, bias, size)


def _do_dense(o: Any, x: Tensor, _k: Tensor, _s: Any, matrices: Tensor, vectors: Tensor) -> Tensor:
    y = _affine(x, o["matrix"], o["bias"], o["outputs"], matrices, vectors)
    return leaky_relu(y, o["slope"])


def _do_linear(o: Any, x: Tensor, _k: Tensor, _s: Any, matrices: Tensor, vectors: Tensor) -> Tensor:
    size = o["channels"] * o["side"] ** 2
    y = _affine(x, o["matrix"], o["bias"], size, matrices, vectors)
    return y.view(len(x), o["side"], o["side"], o["channels"]).permute(0, 3, 1, 2)


def _do_conv(o: Any, x: Tensor, _k: Tensor, _s: Any, matrices: Tensor, vectors: Tensor) -> Tensor:
    (c_in, c_out), up, side = o["channels"], o["up"], x.shape[-1]
    y = x.new_empty(len(x), c_out, up * side, up * side)
    around = pad(x, (1, 1, 1, 1))
    for part in o["parts"]:
        pixels = torch.cat(
            [around[:, :, 1 + dy :, 1 + dx :][:, :, :side, :side] for dy, dx in part["taps"]], 1
        )
        matrix = _at(matrices, part["matrix"], c_out, len(part["taps"]) * c_in)
        bias = _at(vectors, part["bias"], c_out, 1, 1)
        row, column = part["at"]
        y[:, :, row::up, column::up] = torch.einsum("oi,bihw->bohw", matrix, pixels) + bias
    return y


def _do_norm(o: Any, x: Tensor, _k: Tensor, shares: Any, _m: Tensor, vectors: Tensor) -> Tensor:
    tables = [_at(vectors, o[name], o["rows"], o["channels"]) for name in ("scale", "shift")]
    mixed = [table if o["rows"] == 1 else shares @ table for table in tables]
    scale, shift = (row[:, :, None, None] for row in mixed)
    return x * scale + shift


def _do_modulate(
    o: Any, x: Tensor, style: Tensor, _s: Any, matrices: Tensor, vectors: Tensor
) -> Tensor:
    scale, shift = (
        _affine(style, o[name], o[f"{name}_bias"], o["channels"], matrices, vectors)
        for name in ("scale", "shift")
    )
    return x * scale[:, :, None, None] + shift[:, :, None, None]


def _do_shortcut(o: Any, x: Tensor, kept: Tensor, _s: Any, matrices: Tensor, v: Tensor) -> Tensor:
    c_out, c_in = x.shape[1], kept.shape[1]
    matrix, bias = _at(matrices, o["matrix"], c_out, c_in), _at(v, o["bias"], c_out, 1, 1)
    return x + interpolate(torch.einsum("oi,bihw->bohw", matrix, kept) + bias, scale_factor=2)


def _do_attention(o: Any, x: Tensor, _k: Tensor, _s: Any, matrices: Tensor, _v: Tensor) -> Tensor:
    channels = o["channels"]
    narrow, half = channels // 8, channels // 2

    def mapped(name: str, c_out: int, pooled: bool) -> Tensor:
        y = torch.einsum("oi,bihw->bohw", _at(matrices, o[name], c_out, channels), x)
        return (max_pool2d(y, 2) if pooled else y).flatten(2)

    query = mapped("query", narrow, False)
    key, value = mapped("key", narrow, o["pooled"]), mapped("value", half, o["pooled"])
    weights = (o["factor"] * query.mT @ key).softmax(-1)  # (B, N, M)
    attended = value @ weights.mT  # (B, half, N)
    output = _at(matrices, o["output"], channels, half) @ attended
    return x + o["gamma"] * output.view_as(x)


_DO: dict[str, Callable[..., Tensor]] = {
    "dense": _do_dense,
    "linear": _do_linear,
    "conv": _do_conv,
    "norm": _do_norm,
    "modulate": _do_modulate,
    "keep": lambda _o, x, *_: x,
    "shortcut": _do_shortcut,
    "attention": _do_attention,
    "tanh": lambda _o, x, *_: x.tanh(),
}
