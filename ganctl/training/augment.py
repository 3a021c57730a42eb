"""Differentiable augmentation: Zhao et al. 2020, https://arxiv.org/abs/2006.10738, section 3.

D is shown real and generated images that were changed in the same ways, in its own update and in
G's, and G learns through the change. So D cannot learn a few images by heart, and generated ones do
not take the changes over. Each change is made with a probability p of its own (Karras et al. 2020,
https://arxiv.org/abs/2006.06676, section 2.2), so that p can be raised while a run goes on.

What is drawn comes from outside: a row of numbers for each sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganctl.runtime import autocast_off, random_uniform
from ganctl.settings.config import Config
from ganctl.training.state import TrainState

# Columns of a row of draws, each in [0, 1).
COLOUR, TRANSLATION, CUTOUT = slice(1, 4), slice(5, 7), slice(8, 10)  # what is done ...
WHETHER = {"colour": 0, "translation": 4, "cutout": 7}  # ... and whether
WIDTH = 10
BRIGHTNESS, SATURATION, CONTRAST = (-0.5, 0.5), (0.0, 2.0), (0.5, 1.5)  # from, to
FURTHEST = 1 / 8  # of the side that an image is moved by
HOLE = 1 / 2  # of the side that is cut out


def draws(seed: int, purpose: str, first: int, count: int) -> Tensor:
    """(count, WIDTH) fp32 in [0, 1): what happens to the samples from `first` on, on the CPU."""
    drawn = random_uniform(seed, f"augment {purpose}", first, count, WIDTH)
    return torch.from_numpy(drawn.astype("float32")).clamp_(max=1 - 2**-24)


def shown(images: Tensor, drawn: Tensor | None, state: TrainState, config: Config) -> Tensor:
    """(B, 3, R, R) as D is shown them in this step: augmented if they have draws."""
    if drawn is None:
        return images
    p = config.augment.probability if state.augment_p is None else state.augment_p
    assert p != "adaptive"
    return augmented(images, drawn, config.augment.policy, p)


def augmented(
    images: Tensor, drawn: Tensor, policy: Sequence[str], probability: Tensor | float
) -> Tensor:
    """(B, 3, R, R) -> the same shape, fp32: changed as `drawn` (B, WIDTH) says.

    `policy` names the kinds of changes, which are made in the order of the paper's code, each with
    `probability`, a number or a tensor () on the device. With 0 the images stay as they are.
    """
    changes = {"colour": _colour, "translation": _translation, "cutout": _cutout}
    with autocast_off(images.device):
        images = images.float()
        for name, change in changes.items():
            if name in policy:
                chosen = (drawn[:, WHETHER[name]] < probability)[:, None, None, None]
                images = change(images, drawn, chosen)
    return images.contiguous(memory_format=torch.channels_last)


def _colour(images: Tensor, drawn: Tensor, chosen: Tensor) -> Tensor:
    """Brightness is added, then saturation and contrast are multiplied."""
    ranges = zip(drawn[:, COLOUR].unbind(1), (BRIGHTNESS, SATURATION, CONTRAST), strict=True)
    brightness, saturation, contrast = (
        (low + (high - low) * share)[:, None, None, None] for share, (low, high) in ranges
    )
    changed = images + brightness
    grey = changed.mean(1, keepdim=True)
    changed = (changed - grey) * saturation + grey
    level = changed.mean((1, 2, 3), keepdim=True)
    changed = (changed - level) * contrast + level
    return torch.where(chosen, changed, images)


def _translation(images: Tensor, drawn: Tensor, chosen: Tensor) -> Tensor:
    """Moved by whole pixels, at most FURTHEST, down and to the right; zeros come after.

    As products with matrices of zeros and ones, which move exactly, forward and back, with the same
    shapes whatever is drawn.
    """
    down, right = _moves(images.shape[-1], drawn, chosen)
    return down[:, None] @ images @ right[:, None].mT


def _moves(side: int, drawn: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
    """Two matrices of zeros and ones for each image, (B, R, R): from its rows, from its columns."""
    most = round(side * FURTHEST)
    moved = (drawn[:, TRANSLATION] * (2 * most + 1)).floor() - most  # (B, 2): down, right
    moved = torch.where(chosen[:, :, 0, 0], moved, 0)
    place = torch.arange(side, device=drawn.device)
    source = place[None, None, :, None] - moved[:, :, None, None]  # (B, 2, R, 1): of each place
    return (source == place).float().unbind(1)


def _cutout(images: Tensor, drawn: Tensor, chosen: Tensor) -> Tensor:
    """Zeros in a square whose centre is anywhere, so that it may end at the border."""
    side = images.shape[-1]
    size = round(side * HOLE)
    first = (drawn[:, CUTOUT] * (side + 1 - size % 2)).floor() - size // 2  # (B, 2): top, left
    place = torch.arange(side, device=images.device)
    after = place - first[:, :, None]  # (B, 2, R)
    rows, columns = ((after >= 0) & (after < size)).unbind(1)
    hole = (rows[:, None, :, None] & columns[:, None, None, :]) & chosen
    return torch.where(hole, 0, images)
