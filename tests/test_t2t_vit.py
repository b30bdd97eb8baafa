"""T2T-ViT: its counts to the digit, its shapes, and the mathematics of its token transformer."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stlsearch.errors import InputError
from stlsearch.nn import STLLinear, convert, count
from stlsearch.nn.models import T2TViT, count_parameters, mac_breakdown, t2t_vit_7, t2t_vit_digits
from stlsearch.nn.models.t2t_vit import Block, SoftSplit, performer_attention, positive_features, random_projections, sinusoids
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

# (T2T linears, backbone linears, attention, performer, head) in millions of MACs an image.
DENSE = {"t2t_linears": 252.3, "backbone_linears": 723.0, "attention": 139.1, "performer": 32.2, "head": 0.26, "total": 1146.9}

# rank: trained parameters with U and W learned by each layer, and millions of MACs as tokens are and with 197 padded to 200.
STL = {16: (4_270_030, 672, 676), 24: (6_112_206, 797, 802), 32: (7_954_382, 921, 928), 40: (9_796_558, 1045, 1055)}


def basis(rank):
    return open_registry().best(Target.matmul(4, 4, 4), rank=rank).algorithm


def in_backbone(model, rank, learn="UW"):
    convert(model, basis=basis(rank), include="blocks.*", learn=learn)
    return model


@pytest.fixture(scope="module")
def seven():
    torch.manual_seed(0)
    return t2t_vit_7().eval()


def test_parameters_of_t2t_vit_7(seven):
    assert count_parameters(seven) == (4_310_222, 4_255_694)
    frozen = {name: tuple(value.shape) for name, value in seven.named_parameters() if not value.requires_grad}
    projections = {f"performers.{number}.projections": (32, 64) for number in (0, 1)}
    assert frozen == {"positions": (1, 197, 256)} | projections
    linears = [name for name, layer in seven.named_modules() if type(layer) is torch.nn.Linear]
    assert len([name for name in linears if name.startswith("blocks.")]) == 28
    assert len(linears) == 28 + 2 * 4 + 2  # the performers' four each, project, head


def test_macs_of_t2t_vit_7(seven):
    counted = mac_breakdown(seven)
    assert {name: round(count / 1e6, 2 if name == "head" else 1) for name, count in counted.items()} == DENSE
    assert mac_breakdown(seven, padded=True) == counted  # nothing is tiled
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert seven(torch.randn(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() == 2 * counted["total"]


@pytest.mark.parametrize("rank", STL)
def test_counts_of_strassen_tile_variants(rank):
    model = in_backbone(t2t_vit_7(), rank)
    trained, macs, padded = STL[rank]
    assert count_parameters(model)[1] == trained
    assert round(mac_breakdown(model)["total"] / 1e6) == macs
    assert round(mac_breakdown(model, padded=True)["total"] / 1e6) == padded
    assert sum(isinstance(layer, STLLinear) for layer in model.modules()) == 28


@pytest.mark.parametrize("rows", ["tokens", "batch"])
def test_macs_agree_with_those_of_the_operators_that_run(rows):
    """`stlsearch.nn.count` runs the model and counts what it calls; the breakdown counts from shapes."""
    model = t2t_vit_digits().eval()
    convert(model, basis=basis(24), include="*", exclude=(), rows=rows)
    images = torch.randn(4, 1, 16, 16)
    for padded in (True, False):
        assert count(model, images, padded=padded).macs == 4 * mac_breakdown(model, padded=padded)["total"]


def test_rank_64_tiles_would_cost_the_dense_products_and_the_encodings():
    """A closed form that shares no code with the count: r M (K + N + K N / 64) a layer."""
    model = convert_all(t2t_vit_7())
    counted = mac_breakdown(model)
    shapes = [(3136, 147, 192), *[(3136, 64, 64)] * 3, (784, 576, 192), *[(784, 64, 64)] * 3, (196, 576, 256)]
    assert counted["t2t_linears"] == sum(round(24 * m * (k + n + k * n / 64)) for m, k, n in shapes)
    assert counted["head"] == 24 * (256 + 1000) + 24 * 256 * 1000 // 64
    assert mac_breakdown(model, padded=True)["head"] == 4 * counted["head"]  # one row of four is of use
    assert counted["attention"] == mac_breakdown(t2t_vit_7())["attention"]


def convert_all(model, learn=""):
    convert(model, basis=basis(24), include="*", exclude=(), learn=learn)
    assert not [name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear]
    return model


def test_every_linear_layer_can_be_replaced_and_samples_stay_apart():
    torch.manual_seed(0)
    model = convert_all(t2t_vit_digits(), learn="UW").eval()
    images = torch.randn(5, 1, 16, 16)
    together = model(images)
    apart = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    model.train()(images).square().sum().backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


def test_an_exact_basis_changes_nothing():
    torch.manual_seed(0)
    model = t2t_vit_digits().eval()
    images = torch.randn(3, 1, 16, 16)
    expected = model(images)
    exact = open_registry().best(Target.matmul(4, 4, 4), rank=49).algorithm
    convert(model, basis=exact, include="*", exclude=())
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_all_that_is_trained_and_nothing_frozen():
    model = t2t_vit_digits(drop_path=0.3)
    model(torch.randn(4, 1, 16, 16)).square().sum().backward()
    for name, value in model.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        assert value.grad is None or value.grad.abs().max() > 0, name


def test_shapes_follow_from_the_splits():
    model = T2TViT(image_size=33, channels=2, classes=5, splits=((5, 3, 2), (3, 2, 1)), token_dim=8, dim=12, depth=1, heads=3)
    assert model.grids == [11, 6]
    assert model.tokens(torch.randn(2, 2, 33, 33)).shape == (2, 36, 12)
    assert model(torch.randn(2, 2, 33, 33)).shape == (2, 5)
    assert len(model.performers) == 1
    assert T2TViT(image_size=8, splits=((4, 4, 0),), depth=1)(torch.randn(1, 3, 8, 8)).shape == (1, 1000)  # no performer at all


def test_soft_splits_are_overlapping_patches():
    image = torch.arange(2.0 * 5 * 5).view(1, 2, 5, 5)
    tokens = SoftSplit(3, 2, 1)(image)
    assert tokens.shape == (1, 9, 18)
    torch.testing.assert_close(tokens[0, 4], image[0, :, 1:4, 1:4].reshape(-1))  # the middle one, padded nowhere
    assert tokens[0, 0, 0] == 0  # the padding


@pytest.mark.parametrize(
    "bad",
    [
        {"heads": 3},
        {"depth": 0},
        {"drop_path": 1.0},
        {"image_size": 3, "splits": ((7, 4, 0),)},
        {"splits": ()},
        {"splits": ((0, 1, 1),)},
    ],
)
def test_bad_sizes_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as refused:
        T2TViT(**bad)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(seven):
    with pytest.raises(InputError, match="3 x 224"):
        seven(torch.zeros(1, 3, 192, 192))


def test_positions_are_sines_and_cosines():
    table = sinusoids(7, 10)
    for place in range(7):
        for channel in range(10):
            angle = place / 10000 ** (2 * (channel // 2) / 10)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[place, channel].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(t2t_vit_digits().positions[0], sinusoids(17, 64))


def test_features_are_unbiased_for_the_softmax_kernel():
    """E phi(q).phi(k) = exp(q.k) over normal projections (arXiv 2009.14794, lemma 1)."""
    torch.manual_seed(0)
    q, k = 0.3 * torch.randn(2, 1, 4, 8, dtype=torch.float64)
    projections = torch.randn(200_000, 8, dtype=torch.float64)
    estimate = positive_features(q, projections) @ positive_features(k, projections).mT
    torch.testing.assert_close(estimate, (q @ k.mT).exp(), rtol=0.02, atol=0)
    assert (positive_features(10 * q, projections[:32]) >= 0).all()


def test_performer_attention_tends_to_softmax_attention():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 20, 8)
    query, key = 0.3 * query, 0.3 * key
    exact = F.scaled_dot_product_attention(query, key, value, scale=1.0)

    def error(features):
        draws = [performer_attention(query, key, value, random_projections(features, 8)) for _ in range(8)]
        return torch.stack([(draw - exact).square().mean().sqrt() for draw in draws]).mean().item()

    errors = [error(features) for features in (64, 1024, 16384)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


def test_projections_are_orthogonal():
    few = random_projections(32, 64)
    torch.testing.assert_close(few @ few.T, 32 * torch.eye(32), rtol=0, atol=1e-4)
    many = random_projections(256, 64)
    torch.testing.assert_close(many.T @ many, 256 * torch.eye(64), rtol=0, atol=1e-3)


def test_performer_attention_is_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 6, 8)
    projections = random_projections(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = performer_attention(query, key, value, projections)
    torch.testing.assert_close(inside, performer_attention(query, key, value, projections), rtol=0, atol=0)
    assert performer_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), projections.bfloat16()).dtype == torch.bfloat16


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    block = Block(8, 2, 16, drop_path=0.25)
    kept = block._skip(torch.ones(4000, 2, 3))
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 4 / 3]))
    assert (kept.flatten(1).std(1) == 0).all()
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert (block.eval()._skip(torch.ones(4, 2, 3)) == 1).all()
    rates = [block.drop_path for block in t2t_vit_digits(drop_path=0.3).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
