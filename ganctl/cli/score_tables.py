"""How scores are shown: each figure beside the floor, and how all of them were measured."""

from ganctl.cli import show
from ganctl.scores.comparison import Report, Scored, Scores
from ganctl.scores.prdc import K_MANIFOLD, K_SUPPORT
from ganctl.scores.protocol import distance_name, floor_words, kernel_name


def print_report(report: Report) -> None:
    """A line a figure for one set of images, a line a checkpoint for several."""
    scored, protocol, floor = report
    names = [
        distance_name(protocol.features),
        kernel_name(protocol.features),
        f"precision (k = {K_SUPPORT})",
        f"recall (k = {K_SUPPORT})",
        f"density (k = {K_MANIFOLD})",
        f"coverage (k = {K_MANIFOLD})",
    ]
    real = _cells(floor.scores) if floor else ["-"] * len(names)
    if len(scored) == 1:
        (only,) = scored
        table = show.table(_title(only), ("", "generated", "real: the floor"))
        for row in zip(names, _cells(only.scores), real, strict=True):
            table.add_row(*row)
    else:
        columns = [name.replace(" (", "\n(") for name in names]
        table = show.table("scores of all checkpoints", ("step", *columns))
        for each in scored:
            table.add_row(f"{each.step:,}", *_cells(each.scores))
        table.add_section()
        table.add_row("real: the floor", *real)
    show.result_table(table)
    size = None if floor is None else floor.images
    for sentence in (*protocol.words(), floor_words(protocol.real_images, size)):
        show.result(sentence)


def print_json(report: Report) -> None:
    """All figures, not rounded."""
    scored, protocol, floor = report
    real = None if floor is None else floor.as_data()
    found = [{"what": each.what, "step": each.step, **each.scores._asdict()} for each in scored]
    show.result_json({"scores": found, "floor": real, "protocol": protocol.as_data()})


def _cells(scores: Scores) -> list[str]:
    shares = (scores.precision, scores.recall, scores.density, scores.coverage)
    kid = f"{scores.kid:.5f} +- {scores.kid_error:.5f}"
    return [f"{scores.fd:.2f}", kid, *(f"{share:.3f}" for share in shares)]


def _title(scored: Scored) -> str:
    return scored.what if scored.step is None else f"{scored.what}, step {scored.step:,}"
