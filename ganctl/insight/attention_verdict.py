"""Whether an attention block is used, in a sentence made of its figures."""

from ganctl.insight.attention_maps import Figures

VISIBLE = 1.0  # grey level: less than that of change cannot be seen
NOTICED = 0.05  # of the scores' spread: less hardly moves what D thinks
AIMED = 0.5  # of the effect that is due to where a block looks, for it to be what it is used for


def share_by_place(figures: Figures) -> float | None:
    """Which part of the block's effect uniform maps take away: what is due to where it looks.

    The rest is that of a global average. None if there is no effect.
    """
    whole, uniform = _effect(figures)
    return uniform / whole if whole > 0 else None


def verdict(figures: Figures) -> str:
    """One sentence."""
    name = f"{figures.network}.{figures.block} on {figures.data} images"
    whole, _ = _effect(figures)
    share = share_by_place(figures)
    if share is None:
        return f"{name} is not used: gamma = 0 changes nothing."
    if figures.image_change is not None:
        small, what = whole < VISIBLE, f"it changes images by {whole:.2g} of 255 levels"
    else:
        spread = figures.score_spread or 0.0
        small = whole < NOTICED * spread
        what = f"it changes scores by {whole:.2g}, where they spread by {spread:.2g}"
    place = f"{share:.0%} of that is due to where it looks"
    if small:
        return f"{name} is hardly used: {what}; {place}."
    if share < AIMED:
        return f"{name} is used mostly as a global average: {what}; only {place}."
    return f"{name} is used to look somewhere: {what}; {place}."


def _effect(figures: Figures) -> tuple[float, float]:
    """Of gamma = 0, and of uniform maps: of grey levels, or of scores."""
    if figures.image_change is not None:
        return figures.image_change, figures.image_change_uniform or 0.0
    return figures.score_change or 0.0, figures.score_change_uniform or 0.0
