"""The report itself: the runs side by side, as one HTML file."""

from collections.abc import Sequence
from typing import NamedTuple

import ganctl
from ganctl.insight.attention_verdict import verdict
from ganctl.report import account, axes, pictures, scores, weights
from ganctl.report.account import Account
from ganctl.report.inside import Inside
from ganctl.report.parts import COLOURS, card, figure, pair, panel_figures, rows, section, side
from ganctl.store.journal import now
from ganctl.webpage import data_block, page, template, text

MOST_BYTES = 10_000_000  # of all pictures; as text they are a third longer
MOST_EVENTS = 200  # of a run that are listed
SHARES = {"previews": 0.6, "reals": 0.05, "samples": 0.1, "way": 0.1, "sheet": 0.15}


class Subject(NamedTuple):
    """A run, and what its newest checkpoint shows; None if it has none."""

    account: Account
    inside: Inside | None


def document(subjects: Sequence[Subject]) -> str:
    """The whole file, below 15 MB, for one run or more."""
    accounts = [subject.account for subject in subjects]
    names = ", ".join(each.name for each in accounts)
    bytes_each = MOST_BYTES // len(subjects)
    shots = [
        pictures.over_time(each.run.samples, int(SHARES["previews"] * bytes_each))
        for each in accounts
    ]
    panels = axes.panels_of(accounts)
    spectra = weights.panels_of([(each.name, inside) for each, inside in subjects])
    sections = [
        _header(names),
        section("What was trained", side(_facts(n, each) for n, each in enumerate(accounts))),
        _previews(accounts, shots, int(SHARES["reals"] * bytes_each)),
        _curves(accounts, panels),
        section("What happened", side(_events(n, each) for n, each in enumerate(accounts))),
        _images(subjects, bytes_each),
        _attention(subjects, int(SHARES["sheet"] * bytes_each)),
        weights.tables([(each.name, inside) for each, inside in subjects], spectra, len(panels)),
        section("Make it again", side(_commands(n, each) for n, each in enumerate(accounts))),
    ]
    data = {"panels": [*panels, *spectra], "marks": axes.marks_of(accounts)}
    body = "\n".join([*sections, data_block("curves", data), _shots_block(shots)])
    return page(
        f"{names}: a report of ganctl",
        body,
        template("ganctl.report", "report.css"),
        template("ganctl.report", "report.js"),
    )


def _header(names: str) -> str:
    made = f"Made with ganctl {ganctl.__version__}, {now()}. It needs no network."
    return f"<header><h1>{text(names)}</h1><p class='faint'>{text(made)}</p></header>"


def _facts(number: int, each: Account) -> str:
    return card(number, each.name, rows(account.facts(each)) + scores.table(each))


def _events(number: int, each: Account) -> str:
    lines = []
    for event in each.events[-MOST_EVENTS:]:
        kind = "what alarm" if event["event"] in ("alarm", "failed") else "what"
        cells = f"<td class='number'>{event['step']:,}</td><td class='{kind}'>"
        when = str(event.get("time", ""))[:16].replace("T", " ")  # to the minute
        sentence = text(account.sentence(event))
        lines.append(f"<tr>{cells}{sentence}</td><td class='when'>{text(when)}</td></tr>")
    head = "<tr><th class='number'>step</th><th>what</th><th>when (UTC)</th></tr>"
    table = f"<div class='wide' tabindex='0'><table>{head}{''.join(lines)}</table></div>"
    if (left := len(each.events) - len(lines)) > 0:
        table = f"<p class='faint'>Older ones are left out: {left:,}.</p>{table}"
    return card(number, each.name, table if lines else "<p>Nothing is written down.</p>")


def _commands(number: int, each: Account) -> str:
    lines = "\n".join(account.commands(each))
    return card(number, each.name, f"<pre>{text(lines)}</pre>")


def _previews(
    accounts: Sequence[Account], shots: Sequence[list[tuple[int, str]]], most: int
) -> str:
    """A slider over the previews of all runs, beside real images."""
    cards = []
    for number, (each, own) in enumerate(zip(accounts, shots, strict=True)):
        if not own:
            content = "<p>There are no previews yet.</p>"
        else:
            step, address = own[-1]
            content = (
                f"<figure><img class='grid' id='preview-{number}' src='{address}'"
                f" alt='Generated images at step {step}'><figcaption>step"
                f" <span id='preview-step-{number}'>{step:,}</span>, from the same noise each time"
                "</figcaption></figure>"
            )
        reals = each.run.samples / "reals.png"
        if reals.exists() and (shown := pictures.opened(reals)):
            content += figure(pictures.encoded(shown, most), "Real images", "real images")
        cards.append(card(number, each.name, pair(content)))
    steps = sorted({step for own in shots for step, _ in own})
    control = (
        f"<p><label for='when'>step <output id='when-step'>{steps[-1]:,}</output></label>"
        f"<input type='range' id='when' min='0' max='{len(steps) - 1}' value='{len(steps) - 1}'"
        " step='1'></p>"
        if steps
        else ""
    )
    return section("How the images came", control + side(cards))


def _shots_block(shots: Sequence[list[tuple[int, str]]]) -> str:
    steps = sorted({step for own in shots for step, _ in own})
    return data_block("previews", {"steps": steps, "runs": shots}) if steps else ""


def _curves(accounts: Sequence[Account], panels: Sequence[dict[str, object]]) -> str:
    if not panels:
        return section("Curves", "<p>There are no figures yet.</p>")
    swatches = "".join(
        f"<span class='swatch c{n % COLOURS}'></span>{text(each.name)}&ensp;"
        for n, each in enumerate(accounts)
    )
    words = "broken vertical lines: alarms, roll-backs, failures; arrow keys read a curve out"
    legend = f"<p>{swatches}<span class='faint'>{words}</span></p>"
    need = "<noscript><p>The curves are drawn by a script.</p></noscript>"
    return section("Curves", legend + need + panel_figures(panels, 0))


def _images(subjects: Sequence[Subject], most: int) -> str:
    cards = []
    for number, (each, inside) in enumerate(subjects):
        if inside is None:
            cards.append(card(number, each.name, "<p>There is no checkpoint yet.</p>"))
            continue
        samples = pictures.encoded_array(inside.samples, int(SHARES["samples"] * most))
        way = pictures.encoded_array(inside.way, int(SHARES["way"] * most))
        step = f"step {inside.step:,}"
        content = figure(samples, "Generated images", f"seeds from 0 on, {step}")
        content += figure(way, "The way between images", f"from seed to seed, {step}")
        cards.append(card(number, each.name, pair(content)))
    return section("Images", side(cards))


def _attention(subjects: Sequence[Subject], most: int) -> str:
    parts = []
    for number, (each, inside) in enumerate(subjects):
        if inside is not None and inside.sheet is not None:
            address = pictures.encoded_array(inside.sheet, most)
            sheet = figure(address, "Where points of images look", "", kind="sheet")
            said = "".join(f"<p>{text(verdict(figures))}</p>" for figures in inside.attention)
            wide = f"<div class='wide' tabindex='0'>{sheet}</div>"
            parts.append(card(number, each.name, said + wide))
    return section("Where attention looks", "".join(parts))
