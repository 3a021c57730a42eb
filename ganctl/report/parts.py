"""The parts that a report is put together of, as HTML; all that others named is escaped here."""

from collections.abc import Iterable, Sequence
from typing import Any

from ganctl.webpage import text

COLOURS = 8  # of runs


def section(title: str, content: str) -> str:
    """A part of the page with a heading; nothing without content."""
    return f"<section><h2>{text(title)}</h2>{content}</section>" if content else ""


def side(cards: Iterable[str]) -> str:
    """Side by side where there is room."""
    return f"<div class='side'>{''.join(cards)}</div>"


def card(number: int, name: str, content: str) -> str:
    """What is told of one run, with its colour."""
    swatch = f"<span class='swatch c{number % COLOURS}'></span>"
    return f"<div class='card'><h3>{swatch}{text(name)}</h3>{content}</div>"


def pair(figures: str) -> str:
    """Pictures beside each other where there is room."""
    return f"<div class='pair'>{figures}</div>"


def rows(pairs: Sequence[tuple[str, str]]) -> str:
    """A table of names and values."""
    lines = (f"<tr><th scope='row'>{text(a)}</th><td>{text(b)}</td></tr>" for a, b in pairs)
    return f"<table class='facts'>{''.join(lines)}</table>"


def figure(address: str, alt: str, caption: str, kind: str = "grid") -> str:
    """A picture with a caption; `address` is one of `pictures.encoded`."""
    image = f"<img class='{kind}' src='{address}' alt='{text(alt)}'>"
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def panel_figures(panels: Sequence[dict[str, Any]], first: int) -> str:
    """Places for panels, numbered from `first` on, that the script fills."""
    figures = []
    for number, panel in enumerate(panels, first):
        key = f" <span class='key'>{text(panel['key'])}</span>" if panel["key"] else ""
        scale = "" if panel["scale"] == "linear" else " <span class='key'>(logarithmic)</span>"
        caption = f"<figcaption>{text(panel['title'])}{key}{scale}</figcaption>"
        figures.append(f"<figure class='panel' data-panel='{number}'>{caption}</figure>")
    return f"<div class='panels'>{''.join(figures)}</div>"
