"""Convolution with a quarter (3 x 3) to a sixth (5 x 5) of the multiplications.

Winograd's minimal filtering, as for networks in Lavin and Gray 2015,
https://arxiv.org/abs/1509.09308: an output tile of 4 x 4 depends on an input tile of n x n,
n = 4 + k - 1. Both are looked at as polynomials and the product is taken at n points, so one
n x n product of channels a tile replaces 16 * k * k of them:

    Y = A' [ (G g G') * (B' d B) ] A        (their eq. 8; g the kernel, d the input tile)

Exact in real numbers; in fp32 the rounding error is about ten times that of the plain sum, 5e-6 of
the output's length. In bf16 it would be several per cent, so it is for fp32 only; and for the CPU,
because cuDNN has its own. It pays where matrix products run about as fast as the library's
convolutions do, which processors differ in: `swaps` measures it.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

TILE = 4  # outputs of a tile, a side
POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-1/2", "-2", "1/2")]  # and infinity
WORTH = 80  # C_in * C_out / (C_in + C_out), products per transform: with fewer it is no faster
CACHE_BYTES = 12 * 2**20  # transformed tiles are used while they are in the processor's cache


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C_in, H, W) -> (B, C_out, H, W): `conv2d` with zero padding of half the kernel."""
    if not fits(x, weight):
        return conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    y: Tensor = _Convolve.apply(x, weight)
    return y if bias is None else y + bias[:, None, None]


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` computes this in its own way: exact enough, in whole tiles, worth it."""
    height, width = x.shape[2:]
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and height % TILE == width % TILE == 0
        and worth(weight.shape)
    )


def worth(shape: Sequence[int]) -> bool:
    """Whether a weight of that shape, (C_out, C_in, k, k), has enough products per transform."""
    c_out, c_in, kernel, _ = shape
    return kernel in (3, 5) and c_in * c_out / (c_in + c_out) >= WORTH


class _Convolve(torch.autograd.Function):
    """Its derivatives are `_Convolve` and `_Correlate` again, so it can be derived twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        matrices = transforms(weight.shape[-1], x.dtype)
        kernels = matrices.of_kernel(weight)  # (n * n, C_out, C_in)
        y = torch.empty(len(x), *x.shape[2:], len(weight), dtype=x.dtype)
        for part in _parts(x, weight.shape):
            lifted = matrices.of_input(x[part])  # (n * n, tiles, C_in)
            matrices.to_output(torch.bmm(lifted, kernels.mT), y[part])
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = _Convolve.apply(gradient, weight.transpose(0, 1).flip(2, 3))
        if ctx.needs_input_grad[1]:
            weight_gradient = _Correlate.apply(x, gradient, weight.shape[-1])
        return x_gradient, weight_gradient


class _Correlate(torch.autograd.Function):
    """The weight's gradient (C_out, C_in, k, k): the adjoint of `_Convolve`, step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, kernel: int) -> Tensor:
        ctx.save_for_backward(x, gradient)
        matrices = transforms(kernel, x.dtype)
        shape = (gradient.shape[1], x.shape[1], kernel, kernel)
        total = torch.zeros(matrices.n**2, *shape[:2], dtype=x.dtype)
        for part in _parts(x, shape):
            lifted, lifted_gradient = matrices.of_input(x[part]), matrices.of_output(gradient[part])
            total.baddbmm_(lifted_gradient.mT, lifted)
        return matrices.to_kernel(total, shape)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gradient = ctx.saved_tensors
        back = direction.transpose(0, 1).flip(2, 3)
        return _Convolve.apply(gradient, back), _Convolve.apply(x, direction), None


class Transforms(NamedTuple):
    """B'(x)B', G(x)G and A'(x)A' of the paper: for whole tiles, not for rows and then columns."""

    n: int
    input: Tensor  # (n * n, n * n)
    kernel: Tensor  # (n * n, k * k)
    output: Tensor  # (16, n * n)

    def of_input(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (n * n, tiles, C), from overlapping tiles of n x n."""
        margin = (self.n - TILE) // 2
        padded = pad(x.permute(0, 2, 3, 1), (0, 0, margin, margin, margin, margin))
        tiles = padded.unfold(1, self.n, TILE).unfold(2, self.n, TILE)  # (B, H/4, W/4, C, n, n)
        return _apply(self.input, tiles.permute(4, 5, 0, 1, 2, 3))

    def of_kernel(self, weight: Tensor) -> Tensor:
        """(C_out, C_in, k, k) -> (n * n, C_out, C_in)."""
        return (self.kernel @ weight.flatten(2).flatten(0, 1).mT).unflatten(1, weight.shape[:2])

    def to_output(self, tiles: Tensor, y: Tensor) -> None:
        """(n * n, tiles, C) into y: (B, H, W, C)."""
        parts = y.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE)).permute(2, 4, 0, 1, 3, 5)
        parts.copy_((self.output @ tiles.flatten(1)).view(parts.shape))

    def of_output(self, gradient: Tensor) -> Tensor:
        """The adjoint of `to_output`: (B, C, H, W) -> (n * n, tiles, C)."""
        tiles = gradient.permute(0, 2, 3, 1).unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE))
        return _apply(self.output.mT, tiles.permute(2, 4, 0, 1, 3, 5))

    def to_kernel(self, total: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The adjoint of `of_kernel`: (n * n, C_out, C_in) -> `shape`, (C_out, C_in, k, k)."""
        return (total.flatten(1).mT @ self.kernel).view(shape)


def _apply(matrix: Tensor, tiles: Tensor) -> Tensor:
    """`matrix` to the pixels of every tile: (side, side, B, h, w, C) -> (rows, B * h * w, C)."""
    pixels = tiles.flatten(2).flatten(0, 1)  # one copy, in runs of C
    return (matrix @ pixels).unflatten(1, (-1, tiles.shape[-1]))


def _parts(x: Tensor, shape: Sequence[int]) -> Iterator[slice]:
    """The batch in parts whose transformed tiles stay in the cache, as far as the kernels do."""
    c_out, c_in, kernel, _ = shape
    n = TILE + kernel - 1
    an_image = n * n * (x.shape[2] * x.shape[3] // TILE**2) * (c_in + c_out) * x.element_size()
    kernels = n * n * c_in * c_out * x.element_size()
    size = max(1, max(CACHE_BYTES, kernels) // an_image)
    for start in range(0, len(x), size):
        yield slice(start, start + size)


@lru_cache
def transforms(kernel: int, dtype: torch.dtype) -> Transforms:
    """By Toom and Cook from POINTS: products of polynomials by their values at n points.

    Row i of A and G holds the powers of point i, row i of B' the coefficients of the polynomial
    that vanishes at all other points; the last row of each stands for infinity.
    """
    n = TILE + kernel - 1
    points = POINTS[: n - 1]
    a = [[point**power for power in range(TILE)] for point in points]
    g = [[point**power for power in range(kernel)] for point in points]
    b = []
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        at_point = sum(c * point**power for power, c in enumerate(_vanishing(others)))
        g[i] = [value / at_point for value in g[i]]
        b.append([*_vanishing(others), Fraction(0)])
    a.append([Fraction(0)] * (TILE - 1) + [Fraction(1)])
    g.append([Fraction(0)] * (kernel - 1) + [Fraction(1)])
    b.append(_vanishing(points))
    both = [torch.tensor(m, dtype=torch.float64) for m in (b, g, list(zip(*a, strict=True)))]
    return Transforms(n, *(torch.kron(m, m).to(dtype) for m in both))


def _vanishing(points: list[Fraction]) -> list[Fraction]:
    """Coefficients, from the constant up, of the product of (x - p) over `points`."""
    product = [Fraction(1)]
    for point in points:
        shifted, scaled = [Fraction(0), *product], [*(-point * c for c in product), Fraction(0)]
        product = [s + t for s, t in zip(shifted, scaled, strict=True)]
    return product
