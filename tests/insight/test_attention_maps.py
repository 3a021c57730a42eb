"""inspect-attention's figures against loops, figures known by hand, and networks changed by hand."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from ganctl.insight.attention_maps import (
    MAP_VALUES,
    Figures,
    Inputs,
    Query,
    Report,
    attention_blocks,
    automatic_queries,
    batch_size,
    distances,
    entropy,
    generated,
    generator_inputs,
    inspect_blocks,
    position,
)
from ganctl.insight.attention_switches import evened, switched_off
from ganctl.insight.attention_verdict import share_by_place, verdict
from ganctl.models import Discriminator, Generator, build_networks
from ganctl.models.attention import SelfAttention
from ganctl.runtime import random_stream
from ganctl.sampling import draw as drawing
from ganctl.sampling.draw import Point
from ganctl.settings.config import Config
from ganctl.training import ema

CPU = torch.device("cpu")
R = 32  # the resolution of all networks here
PIXELS = [Query(0, 0), Query(31, 0), Query(13, 22)]
Networks = tuple[Generator, Discriminator]
Make = Callable[..., Networks]


@pytest.fixture(params=["convnet", "resnet"])
def make(
    request: pytest.FixtureRequest, tiny: Callable[..., Config], tiny_resnet: Callable[..., Config]
) -> Make:
    """G and D of either family with gamma off 0; the resnets know three classes."""
    settings = tiny if request.param == "convnet" else tiny_resnet

    def networks(at: tuple[int, ...] = (8,), scaled: bool = False, pooled: bool = True) -> Networks:
        attention = {"at": list(at), "scaled": scaled, "pooled": pooled}
        config = settings(model__attention=attention, model__width=16)
        pair = build_networks(config.model, config.data, random_stream(1, "init"), n_classes=3)
        for network in pair:
            network.eval().requires_grad_(False)
            for block in attention_blocks(network).values():
                block.gamma.fill_(0.5)
        return pair

    return networks


def points(generator: Generator, n: int) -> list[Point]:
    return [Point(seed, seed % 3 if generator.n_classes else None) for seed in range(n)]


def inputs(generator: Generator, n: int, size: int = 32) -> Iterator[Inputs]:
    return generator_inputs(generator, points(generator, n), size, CPU)


def reports_of(
    networks: Networks, name: str, n: int, size: int = 32, shown: int = 3
) -> list[Report]:
    """What `inspect_blocks` says of G or D at n generated images, looked at `size` at a time."""
    generator, discriminator = networks
    batches = inputs(generator, n, size)
    if name == "d":
        return inspect_blocks(
            discriminator, generated(generator, batches),
            name="d", data="generated", resolution=R, queries=PIXELS, shown=shown,
        )  # fmt: skip
    return inspect_blocks(
        generator, batches, name="g", data="generated", resolution=R, queries=PIXELS, shown=shown
    )


def sharpen(block: SelfAttention, factor: float) -> None:
    """Multiply the logits: sigma = u' W v, by which the queries are divided, is linear in v."""
    block.query.parametrizations.weight[0].v.div_(factor)


def map_by_loops(block: SelfAttention, x: Tensor, scaled: bool, pooled: bool) -> list[list[float]]:
    """Eq. 1 for one (C, H, W), position by position: beta[j][i], how much j attends to i."""
    side = x.shape[1]
    f, g = block.key.weight[:, :, 0, 0].double(), block.query.weight[:, :, 0, 0].double()
    x = x.double()
    step = 2 if pooled else 1
    keys = [
        torch.stack([f @ x[:, a + i, b + j] for i in range(step) for j in range(step)]).amax(0)
        for a in range(0, side, step)
        for b in range(0, side, step)
    ]
    beta = []
    for a in range(side):
        for b in range(side):
            query = g @ x[:, a, b]
            exponents = [
                float(query @ key) / (math.sqrt(len(key)) if scaled else 1) for key in keys
            ]
            total = sum(math.exp(e) for e in exponents)
            beta.append([math.exp(e) / total for e in exponents])
    return beta


@pytest.mark.parametrize("name", ["g", "d"])
@pytest.mark.parametrize(("scaled", "pooled"), [(False, True), (True, False)])
def test_maps_entropy_and_distance_equal_loops_on_the_networks_own_maps(
    make: Make, name: str, scaled: bool, pooled: bool
) -> None:
    networks = make(scaled=scaled, pooled=pooled)
    ((block_name, block),) = attention_blocks(networks[name == "d"]).items()
    seen: list[Tensor] = []
    with block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone())):
        reports_of(networks, name, 1)
    logits = block.attention_map(seen[0]).log()  # far too even in a new network
    sharpen(block, 6 / (logits.max() - logits.min()).item())
    (report,) = reports_of(networks, name, 1)
    beta = map_by_loops(block, seen[0][0], scaled, pooled)
    keys = 16 if pooled else 64
    assert (report.figures.block, report.figures.queries, report.figures.keys) == (
        block_name,
        64,
        keys,
    )
    side = math.isqrt(keys)
    rows = [beta[query.y // 4 * 8 + query.x // 4] for query in PIXELS]
    expected = torch.tensor(rows, dtype=torch.float32).unflatten(1, (side, side))
    torch.testing.assert_close(
        torch.from_numpy(report.glances[0].maps), expected, atol=1e-6, rtol=1e-4
    )
    nats = [-sum(b * math.log(b) for b in row if b > 0) for row in beta]
    assert report.figures.entropy == pytest.approx(sum(nats) / 64, rel=1e-4)
    assert report.figures.entropy < 0.99 * math.log(keys)
    away = 0.0
    for j, row in enumerate(beta):
        for i, share in enumerate(row):
            dy = (j // 8 + 0.5) * R / 8 - (i // side + 0.5) * R / side
            dx = (j % 8 + 0.5) * R / 8 - (i % side + 0.5) * R / side
            away += share * math.hypot(dx, dy) / 64
    assert report.figures.distance == pytest.approx(away, rel=1e-4)


def test_uniform_attention_is_as_wide_and_as_far_as_can_be(make: Make) -> None:
    networks = make()
    for name, network in zip("gd", networks, strict=True):
        (block,) = attention_blocks(network).values()
        sharpen(block, 1e-8)
        figures = reports_of(networks, name, 2)[0].figures
        assert figures.entropy == pytest.approx(math.log(16))
        assert figures.entropy_share == pytest.approx(1)
        assert figures.effective_positions == pytest.approx(16)
        assert figures.distance == pytest.approx(figures.uniform_distance)


def test_entropy_by_hand() -> None:
    rows = torch.tensor([[[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0], [0.5, 0.25, 0.25, 0]]])
    expected = torch.tensor([[math.log(4), 0, 1.5 * math.log(2)]])
    torch.testing.assert_close(entropy(rows), expected)


def test_distances_by_hand() -> None:
    """2 x 2 positions on 4 x 4 pixels have their centres at 1 and 3, a single key at 2, 2."""
    torch.testing.assert_close(distances(4, 1, 4), torch.full((4, 1), math.sqrt(2)))
    d = math.sqrt(8)
    expected = torch.tensor([[0, 2, 2, d], [2, 0, d, 2], [2, d, 0, 2], [d, 2, 2, 0]])
    torch.testing.assert_close(distances(4, 4, 4), expected)


def test_the_position_of_a_pixel() -> None:
    assert [
        position(query, 16, R) for query in (Query(0, 7), Query(31, 0), Query(0, 8), Query(31, 31))
    ] == [0, 3, 4, 15]
    assert [position(Query(x, y), 4096, R) for x, y in ((0, 0), (1, 0), (0, 1))] == [0, 2, 128]


def test_automatic_queries_are_the_most_focused_a_typical_one_and_the_most_different() -> None:
    uniform, left, also_left, right = [0.5, 0.5], [0.9, 0.1], [0.89, 0.11], [0.2, 0.8]
    weights = torch.tensor([uniform, also_left, left, right])
    assert automatic_queries(weights, 1) == [2]
    assert automatic_queries(weights, 3) == [2, 3, 0]
    near = torch.tensor([left, also_left, [0.88, 0.12], [0.87, 0.13], uniform])
    assert automatic_queries(near, 3) == [0, 2, 4]
    assert sorted(automatic_queries(torch.full((4, 2), 0.5), 4)) == [0, 1, 2, 3]  # none twice


def test_switching_off_is_the_network_with_gamma_zero_and_is_undone(make: Make) -> None:
    generator, _ = make()
    before = copy.deepcopy(generator.state_dict())
    zeroed = ema.average_of(generator).eval()
    (block,), (zero,) = attention_blocks(generator).values(), attention_blocks(zeroed).values()
    with torch.no_grad():
        zero.gamma.zero_()
    ((z, labels),) = inputs(generator, 2)
    with switched_off(block):
        off = generator(z, labels)
    assert torch.equal(off, zeroed(z, labels))
    assert not torch.equal(off, generator(z, labels))
    with pytest.raises(ZeroDivisionError), switched_off(block):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_uniform_maps_are_the_mean_of_all_values_and_are_undone(make: Make) -> None:
    generator, _ = make()
    (block,) = attention_blocks(generator).values()
    x = torch.randn(2, block.query.in_channels, 8, 8)
    plain, attend = block(x), block.attend
    with evened(block):
        even = block(x)
    _, _, values = block._projections(x)
    mean = values.mean(1)[:, :, None, None]
    torch.testing.assert_close(even, x + block.gamma * block.output(mean.expand(-1, -1, 8, 8)))
    assert block.attend is attend
    assert torch.equal(block(x), plain)


def test_a_block_whose_maps_are_uniform_is_an_average_and_nothing_else(make: Make) -> None:
    networks = make()
    for network in networks:
        for block in attention_blocks(network).values():
            sharpen(block, 1e-12)
    for name in ("g", "d"):
        (report,) = reports_of(networks, name, 3)
        share = share_by_place(report.figures)
        assert share is not None and share < 1e-3


def figures_of(**changes: Any) -> Figures:
    usual: dict[str, Any] = dict.fromkeys((f.name for f in fields(Figures)), 1)
    scores = dict.fromkeys(
        ("score", "score_shift", "score_change", "score_change_uniform", "score_spread")
    )
    return Figures(**{**usual, "network": "g", "block": "a", "data": "real", **scores, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_change": 0.0}, "is not used: gamma = 0 changes nothing."),
        ({"image_change": 0.3, "image_change_uniform": 0.03}, "is hardly used: it changes images by 0.3 of 255 levels; 10% of that"),
        ({"image_change": 9.0, "image_change_uniform": 1.08}, "is used mostly as a global average: it changes images by 9 of 255 levels; only 12% of that"),
        ({"image_change": 9.0, "image_change_uniform": 8.1}, "is used to look somewhere: it changes images by 9 of 255 levels; 90% of that"),
        ({"image_change": None, "score_change": 0.02, "score_change_uniform": 0.01, "score_spread": 1.0}, "is hardly used: it changes scores by 0.02, where they spread by 1; 50%"),
        ({"image_change": None, "score_change": 0.2, "score_change_uniform": 0.15, "score_spread": 1.0}, "is used to look somewhere: it changes scores by 0.2"),
    ],
)  # fmt: skip
def test_the_verdict_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    said = verdict(figures_of(**changes))
    assert said.startswith("g.a on real images ")
    assert words in said
    assert said.endswith(".") and said.count(".\n") == 0


def test_what_attention_contributes_equals_a_copy_with_gamma_zero(make: Make) -> None:
    generator, discriminator = networks = make()
    without = copy.deepcopy(networks)
    for network in without:
        for block in attention_blocks(network).values():
            block.gamma.zero_()
    ((z, labels),) = inputs(generator, 5)
    images = generator(z, labels)
    g, d = reports_of(networks, "g", 5)[0], reports_of(networks, "d", 5)[0]
    change = 127.5 * (images - without[0](z, labels)).abs()
    assert g.figures.image_change == pytest.approx(change.mean().item(), rel=1e-4)
    assert g.figures.image_change > 0.1
    assert g.glances[2].change == pytest.approx(change[2].mean(0).numpy(), rel=1e-4)
    assert (g.figures.score, g.figures.score_shift, g.figures.score_change) == (None, None, None)
    scores, scores_without = discriminator(images, labels), without[1](images, labels)
    shift = scores - scores_without
    assert d.figures.score == pytest.approx(scores.mean().item(), rel=1e-4)
    assert d.figures.score_shift == pytest.approx(shift.mean().item(), rel=1e-3)
    assert d.figures.score_change == pytest.approx(shift.abs().mean().item(), rel=1e-3)
    assert d.figures.score_change > 1e-4
    assert d.figures.image_change is None
    assert d.glances[1].scores == pytest.approx(
        (scores[1].item(), scores_without[1].item()), rel=1e-4
    )


def test_of_several_blocks_one_is_switched_off_at_a_time(make: Make) -> None:
    generator, _ = networks = make(at=(8, 16))
    reports = reports_of(networks, "g", 2)
    blocks = attention_blocks(generator)
    assert [report.figures.block for report in reports] == list(blocks)
    assert [report.figures.queries for report in reports] == [64, 256]
    ((z, labels),) = inputs(generator, 2)
    for block, report in zip(blocks.values(), reports, strict=True):
        images = generator(z, labels)
        with switched_off(block):
            change = 127.5 * (images - generator(z, labels)).abs().mean()
        assert report.figures.image_change == pytest.approx(change.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["g", "d"])
def test_figures_do_not_depend_on_how_images_are_batched(make: Make, name: str) -> None:
    networks = make()
    (whole,), (parts,) = (reports_of(networks, name, 5, size) for size in (5, 2))
    for field, value in vars(whole.figures).items():
        near = 1e-6 if field.endswith("uniform") else 1e-12  # what rounding leaves of nothing
        expected = pytest.approx(value, rel=1e-4, abs=near) if isinstance(value, float) else value
        assert vars(parts.figures)[field] == expected, field
    assert len(parts.glances) == 3
    for one, other in zip(whole.glances, parts.glances, strict=True):
        assert abs(one.image.astype(int) - other.image).max() <= 1
        assert other.maps == pytest.approx(one.maps, abs=1e-5)


def test_looking_changes_nothing_and_leaves_no_hook(make: Make) -> None:
    networks = make()
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    first = reports_of(networks, "g", 2), reports_of(networks, "d", 2)
    for network, weights in zip(networks, before, strict=True):
        assert all(
            torch.equal(value, weights[name]) for name, value in network.state_dict().items()
        )
        assert not any(module._forward_hooks for module in network.modules())
        assert not network.training
    again = reports_of(networks, "g", 2), reports_of(networks, "d", 2)
    assert [r.figures for part in again for r in part] == [
        r.figures for part in first for r in part
    ]


def test_each_image_has_queries_of_its_own_if_none_are_named(make: Make) -> None:
    generator, _ = make()
    options = {"name": "g", "data": "generated", "resolution": R}
    (report,) = inspect_blocks(generator, inputs(generator, 3), shown=2, **options)
    first, second = report.glances
    assert first.maps.shape == (4, 4, 4)
    assert len(set(first.queries)) == 4
    assert first.queries != second.queries
    seen: list[Tensor] = []
    (block,) = attention_blocks(generator).values()
    with block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone())):
        list(generated(generator, inputs(generator, 3)))
    for glance, weights in zip(report.glances, block.attention_map(seen[0]), strict=False):
        chosen = [position(query, 64, R) for query in glance.queries]
        assert chosen == automatic_queries(weights, 4)
        assert (glance.maps == weights[chosen].unflatten(1, (4, 4)).numpy()).all()


def test_inputs_are_those_of_the_points(make: Make) -> None:
    generator, _ = make()
    parts = list(inputs(generator, 5, size=2))
    assert [len(z) for z, _ in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([z for z, _ in parts]), drawing.latents(8, range(5), None))
    for (_, labels), expected in zip(parts, ([0, 1], [2, 0], [1]), strict=True):
        assert (labels is None) if generator.n_classes == 0 else (labels.tolist() == expected)


def test_a_seed_is_the_image_that_sample_draws(make: Make) -> None:
    generator, _ = networks = make()
    (report,) = reports_of(networks, "g", 3)
    copied = ema.average_of(generator)
    ((_, images),) = drawing.draw(copied, points(generator, 3), batch_size=3, device=CPU)
    for glance, image in zip(report.glances, images, strict=True):
        assert abs(glance.image.astype(int) - image).max() <= 1


@pytest.mark.parametrize(
    ("at", "pooled", "expected"),
    [([8], True, 32), ([32, 64], True, 4), ([64], False, 1), ([128], False, 1)],
)
def test_so_many_images_at_a_time_that_their_maps_fit(
    at: list[int], pooled: bool, expected: int
) -> None:
    size = batch_size(at, pooled)
    assert size == expected
    assert size == 1 or size * max(at) ** 4 // (4 if pooled else 1) <= MAP_VALUES
