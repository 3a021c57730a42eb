"""The norm of a convolution as a map of images, which is not that of its reshaped weight.

Spectral norm divides by sigma(R), the largest singular value of the kernel K reshaped to R,
(C_out, the rest). The convolution itself can be larger, by a known factor at most (Tsuzuku et al.
2018, https://arxiv.org/abs/1802.04034: every pixel is in that many patches):

    sigma(R) <= |K| <= sqrt(ceil(k_h / s) * ceil(k_w / s)) * sigma(R)        stride s

Its exact value follows from Fourier's transform, because a convolution mixes channels at each
frequency by itself: by P(w) = sum_t K[:, :, t] exp(-i w t), a (C_out, C_in) matrix. With circular
padding |K| is the largest singular value of P at the frequencies of the map (Sedghi, Gupta and Long
2019, https://arxiv.org/abs/1805.10408, theorem 6). With zero padding it lies between two bounds.

What is computed is G(w) = P P*, whose largest eigenvalue is the square. K K' is a convolution too,
with the kernel's products with itself, C[d] = sum_t K[:, :, t] K[:, :, t + d]', and a stride keeps
the displacements d that are its multiples, so

    G(w) = sum_d C[s d] exp(i w d)

which is the matrix of the s^2 frequencies that sampling makes equal, side by side.

All in fp64, whose rounding, about 1e-12 of the value, is the only thing not accounted for.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, normalize

BLOCK_BYTES = 32 * 2**20  # of the matrices that are looked at together
KRYLOV_STEPS = 16  # of the lower bound
EXHAUSTED = 1e-4  # what rounding leaves of a direction that the earlier ones span
POWER_ITERATIONS = 8  # to guess at which frequency the norm is
SLACK = 1e-12  # relative; rounding must not make a matrix look larger than itself
GRID = 16  # points an axis and degree, in `largest_norm`: at most 4 % too large


class Bounds(NamedTuple):
    """lower <= norm <= upper."""

    lower: float
    upper: float


def reshaped_factor(weight: Tensor, stride: int = 1) -> float:
    """By how much |K| can exceed sigma(R): 5 for a 5 x 5 kernel, 2 for 4 x 4 with stride 2."""
    return math.prod(math.ceil(side / stride) for side in weight.shape[2:]) ** 0.5


def singular_values(weight: Tensor) -> Tensor:
    """(min(C_out, rest),) float64, of the reshaped weight, largest first.

    Roots of the eigenvalues of W W' or W'W, whichever is smaller: ten times faster than decomposing
    W. Their errors are 1e-16 of the largest value near it and 1e-8 of it near zero, no more than
    fp32 leaves of the weight itself.
    """
    matrix = weight.detach().flatten(1).double()
    gram = matrix @ matrix.mT if len(matrix) <= matrix.shape[1] else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()


def reshaped_norm(weight: Tensor) -> float:
    """sigma(R) of a weight (C_out, ...)."""
    return singular_values(weight)[0].item()


def circular_norm(weight: Tensor, size: int, stride: int = 1) -> float:
    """|K| on maps of size x size, a multiple of the stride, whose edges are joined; exact.

    weight: (C_out, C_in, k_h, k_w).
    """
    if size % stride:
        raise ValueError(f"the size {size} is no multiple of the stride {stride}")
    return _largest(weight, _grid(size // stride, size // stride), stride)


def zero_padded_norm(weight: Tensor, size: int) -> Bounds:
    """|K| on maps of size x size with zeros around them that keep the size: the networks' own.

    weight: (C_out, C_in, k, k) with odd k. Above: it is a part of the circular convolution of maps
    that are k // 2 larger, so it is not larger than that one. Below: |K x| / |x| for a good x.
    """
    kernel = weight.shape[-1]
    if weight.shape[2] != kernel or kernel % 2 == 0:
        raise ValueError(f"the kernel must be square and odd, got {tuple(weight.shape[2:])}")
    sigma = reshaped_norm(weight)
    if kernel == 1 or sigma == 0:
        return Bounds(sigma, sigma)
    upper = min(circular_norm(weight, size + kernel // 2), reshaped_factor(weight) * sigma)
    lower = _krylov(weight.detach().double(), size)
    return Bounds(min(max(lower, sigma) if size >= kernel else lower, upper), upper)


def largest_norm(weight: Tensor) -> float:
    """What |K| does not exceed: for maps of any size, zero or circular padding, stride and groups.

    weight: (C_out, C_in, k_h, k_w), or (..., k), or with more dimensions. P at every frequency, by
    its values on a grid of N x N and the inequality of Ehlich and Zeller 1964, max |p| <= max over
    the grid / cos(pi m / N) for a trigonometric polynomial of degree m = (k - 1) / 2, once for each
    axis; in more than two dimensions the known factor. A stride only leaves out rows of the
    operator, and a group only has a part of its channels. A transposed convolution has the norm of
    the convolution it is the transpose of: the weight serves for both.

    There is no such lower bound: one group may have all that is large in the weight.
    """
    ceiling = reshaped_factor(weight) * reshaped_norm(weight)
    if weight.dim() == 3:
        weight = weight[:, :, None]
    if weight.dim() != 4:
        return ceiling
    points = [max(1, GRID * (side - 1) // 2) for side in weight.shape[2:]]
    degrees = [(side - 1) / 2 for side in weight.shape[2:]]
    between = math.prod(math.cos(math.pi * m / n) for m, n in zip(degrees, points, strict=True))
    return min(_largest(weight, _grid(*points)) / between, ceiling)


def _grid(rows: int, columns: int) -> Tensor:
    """(n, 2): the frequencies of rows x columns, in radians, without those that repeat.

    A real kernel has G(-w) = conj(G(w)), so half of the columns are enough.
    """
    axes = [torch.arange(n).double() * (2 * math.pi / n) for n in (rows, columns)]
    return torch.cartesian_prod(axes[0], axes[1][: columns // 2 + 1])


def _largest(weight: Tensor, frequencies: Tensor, stride: int = 1) -> float:
    """The root of the largest eigenvalue of G over `frequencies`, (n, 2).

    Only matrices that exceed the largest one found so far are decomposed: for the others a Cholesky
    factor of best * I - G exists, which shows that all eigenvalues of G are below `best`, at a
    fraction of the cost.
    """
    weight = weight.detach().double()
    if stride == 1 and len(weight) > weight.shape[1]:
        weight = weight.transpose(0, 1)  # P*P has the same eigenvalues as P P*, and is smaller
    best = 0.0
    for gram in _grams(weight, frequencies, stride):
        likely = _guesses(gram)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype)
        left = torch.arange(len(gram))
        while True:
            ceiling = best * (1 + SLACK) * identity
            left = left[torch.linalg.cholesky_ex(ceiling - gram[left]).info > 0]
            if not len(left):
                break
            chosen = left[likely[left].argmax()]
            best = max(best, torch.linalg.eigvalsh(gram[chosen])[-1].item())
            left = left[left != chosen]
    return math.sqrt(best)


def _grams(weight: Tensor, frequencies: Tensor, stride: int) -> Iterator[Tensor]:
    """G at all frequencies, in blocks: (some, C_out, C_out) complex."""
    channels = len(weight)
    displacements, products = _autocorrelation(weight, stride)
    for part in frequencies.split(max(1, BLOCK_BYTES // (16 * channels**2))):
        angles = part @ displacements.mT / stride  # (some, displacements)
        gram = torch.complex(angles.cos() @ products, angles.sin() @ products)
        half = gram.view(-1, channels, channels)
        yield half + half.mH


def _autocorrelation(weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Displacements (D, 2) and C (D, C_out * C_out) of one of each pair d, -d; C[0] is halved."""
    height, width = weight.shape[2:]
    kernel = weight.permute(2, 3, 1, 0).contiguous()  # so that parts of it are copied in long runs
    displacements, products = [], []
    for down in range(0, height, stride):
        for right in range(-((width - 1) // stride) * stride, width, stride):
            if (down, right) < (0, 0):
                continue
            first = kernel[: height - down, max(0, -right) : width - max(0, right)]
            second = kernel[down:, max(0, right) : width - max(0, -right)]
            product = first.flatten(0, 2).mT @ second.flatten(0, 2)
            displacements.append((down, right))
            products.append((product / 2 if (down, right) == (0, 0) else product).flatten())
    return torch.tensor(displacements).double(), torch.stack(products)


def _guesses(gram: Tensor) -> Tensor:
    """(sets,): the largest eigenvalues, roughly."""
    vector = torch.randn(
        gram.shape[1], 1, dtype=gram.dtype, generator=torch.Generator().manual_seed(0)
    ).expand(len(gram), -1, -1)
    for _ in range(POWER_ITERATIONS):
        vector = gram @ (vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True))
    return torch.linalg.vector_norm(vector, dim=(1, 2))


def _krylov(weight: Tensor, size: int) -> float:
    """|K x| / |x| for one map x, the best combination of Lanczos' for K'K: not above |K|.

    x is searched in fp32, which is fast, and measured in fp64.
    """
    padding = weight.shape[-1] // 2
    kernel = weight.float()
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(1, weight.shape[1], size, size, generator=stream)
    basis, images = torch.empty(0, x.numel()), []
    for _ in range(KRYLOV_STEPS):
        new = normalize(x.flatten(), dim=0)
        for _ in range(2):  # once is not enough in fp32
            new = new - basis.mT @ (basis @ new)
        if new.norm() < EXHAUSTED:
            break
        basis = torch.cat([basis, normalize(new, dim=0)[None]])
        images.append(conv2d(basis[-1].view_as(x), kernel, padding=padding))
        x = conv_transpose2d(images[-1], kernel, padding=padding)
    mapped = torch.cat(images).flatten(1).double()
    best = torch.linalg.eigh(mapped @ mapped.mT).eigenvectors[:, -1]  # shares of the basis
    x = (best @ basis.double()).view_as(x)
    return (conv2d(x, weight, padding=padding).norm() / x.norm()).item()
