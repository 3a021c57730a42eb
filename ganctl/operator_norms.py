"""The norm of a convolution as a map of images, which spectral norm does not divide by.

Spectral norm takes the weight reshaped to (C_out, C_in * k_h * k_w), R. A convolution applies it to
overlapping patches, and its own norm lies between sigma(R) and sqrt(k_h * k_w) * sigma(R): below,
because a single patch is one input; above, because every pixel is in so many patches (Tsuzuku et
al. 2018, https://arxiv.org/abs/1802.04034, section 4).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

ITERATIONS = 16  # of the lower bound
PROMISING = 8  # of the search for the frequency with the largest norm
ROUNDING = 1e-9  # relative, of an eigenvalue
AT_ONCE = 2**24  # complex values held at a time: 256 MB
GRID = 5  # frequencies a side for the norm at any resolution, in units of the kernel's side ...
LEAST_GRID = 16  # ... but at least so many


class Bounds(NamedTuple):
    """What a norm surely lies between."""

    lower: float
    upper: float


@torch.no_grad()
def circular_norm(weight: Tensor, size: int, stride: int = 1) -> float:
    """Exactly, for maps of size x size with circular padding; `size` a multiple of `stride`.

    Fourier's basis makes the convolution a matrix (C_out, C_in) for each frequency (Sedghi, Gupta
    and Long 2019, https://arxiv.org/abs/1805.10408, theorem 6). With a stride the frequencies that
    become one, its aliases, stand beside each other in one matrix. weight: (C_out, C_in, k_h, k_w).
    """
    if size % stride or size < max(weight.shape[2:]):
        raise ValueError(f"size {size} must be a multiple of {stride} and hold the kernel")
    c_out, c_in = weight.shape[:2]
    if stride == 1:  # the conjugate frequencies have the same norms
        spectrum = torch.fft.rfft2(weight.double(), s=(size, size)).flatten(2)  # (C_out, C_in, F)
        return _largest(spectrum.permute(2, 0, 1))
    spectrum = torch.fft.fft2(weight.double(), s=(size, size))
    base = size // stride
    aliases = spectrum.reshape(c_out, c_in, stride, base, stride, base)
    matrices = aliases.permute(3, 5, 0, 1, 2, 4).reshape(base * base, c_out, -1)
    return _largest(matrices / stride)


def zero_padded_bounds(weight: Tensor, size: int, sigma: float) -> Bounds:
    """Of a convolution that keeps maps of size x size, padded with zeros; an odd kernel.

    `sigma` is the largest singular value of the reshaped weight.

    It is a part of the circular one on a map so much larger that patches meet nothing but zeros
    across the border, which gives the upper bound. The lower one is |A x| / |x| of an x that power
    iteration has found. For a kernel of one pixel both are exact.
    """
    kernel = max(weight.shape[2:])
    if kernel == 1:
        return Bounds(sigma, sigma)
    upper = min(
        circular_norm(weight, max(size + kernel // 2, kernel)),
        math.sqrt(weight.shape[2] * weight.shape[3]) * sigma,
    )
    lower = _stretch(weight, size)
    if size >= kernel:  # a whole patch lies in the map
        lower = max(lower, sigma)
    return Bounds(min(lower, upper), upper)


def largest_norm(weight: Tensor) -> float:
    """What the norm with stride 1 stays below at any resolution and any padding with zeros.

    The largest over a grid of frequencies, times what it may be larger between them (Ehlich and
    Zeller 1964, for trigonometric polynomials; once for each axis).
    """
    kernel = weight.shape[2:]
    if max(kernel) == 1:
        return circular_norm(weight, 1)
    grid = max(LEAST_GRID, GRID * max(kernel))
    between = math.prod(1 / math.cos(math.pi * (side // 2) / grid) for side in kernel)
    return circular_norm(weight, grid) * between


@torch.no_grad()
def _stretch(weight: Tensor, size: int) -> float:
    """|A x| / |x|, in float64, for the best x in the span of some steps of power iteration."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    kernel = weight.float()
    x = torch.randn(1, weight.shape[1], size, size, generator=torch.Generator().manual_seed(0))
    steps = []
    for _ in range(ITERATIONS):
        x = conv_transpose2d(conv2d(x, kernel, padding=padding), kernel, padding=padding)
        x /= x.norm()
        steps.append(x)
    basis = torch.linalg.qr(torch.cat(steps).flatten(1).mT).Q.mT  # (ITERATIONS, C * H * W)
    images = conv2d(basis.unflatten(1, x.shape[1:]), kernel, padding=padding)
    best = torch.linalg.svd(images.flatten(1), full_matrices=False).U[:, :1]
    x = (best.mT @ basis).unflatten(1, x.shape[1:]).double()
    return (conv2d(x, weight.double(), padding=padding).norm() / x.norm()).item()


def _largest(matrices: Tensor) -> float:
    """The largest singular value of a stack of matrices (F, rows, columns)."""
    rows, columns = matrices.shape[1:]
    narrow = matrices if rows <= columns else matrices.mT
    largest = 0.0
    for part in narrow.split(max(1, AT_ONCE // (rows * columns))):
        largest = _largest_eigenvalue(part @ part.mH, largest)  # (F, n, n), n the smaller side
    return math.sqrt(largest)


def _largest_eigenvalue(squares: Tensor, known: float) -> float:
    """The largest of the eigenvalues of positive matrices (F, n, n) and of `known`.

    Eigenvalues are found of the most promising matrix only; that all eigenvalues of another one are
    below a number is seen, much faster, from its having a Cholesky decomposition when taken from
    that number times the identity. What has none is looked at in turn.
    """
    identity = torch.eye(squares.shape[-1], dtype=squares.dtype)
    while len(squares):
        bound = known * (1 + ROUNDING)
        above = torch.linalg.cholesky_ex(bound * identity - squares).info != 0
        squares = squares[above]
        if len(squares):
            best = int(_promise(squares).argmax())
            known = max(known, torch.linalg.eigvalsh(squares[best])[-1].item())
            squares = torch.cat([squares[:best], squares[best + 1 :]])
    return known


def _promise(squares: Tensor) -> Tensor:
    """(F,): what a few power iterations make of the largest eigenvalue of each matrix."""
    vector = squares.sum(2, keepdim=True)
    for _ in range(PROMISING):
        vector = squares @ (vector / vector.norm(dim=1, keepdim=True).clamp(min=1e-300))
    return vector.norm(dim=(1, 2))
