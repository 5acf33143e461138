import copy

import pytest
import torch
from torch import Tensor, nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    DropPath,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool,
    OpenChainError,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    softmax,
    unet,
)


def shapes(net):
    return [node.form.shape for node in net.plan.nodes]


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_shapes_follow_from_the_first_layer():
    assert shapes(Chain(Dense(10, 5), relu, Dense(5, 2))) == [(10,), (5,), (5,), (2,)]


def test_images_of_unknown_size_have_known_channels():
    net = Chain(Conv(3, 8, 3, padding=1), MaxPool(2), Conv(..., 16, 3), BatchNorm(), GlobalAvgPool(), Dense(..., 10))
    assert not net.is_open
    assert shapes(net) == [
        (3, None, None),
        (8, None, None),
        (8, None, None),
        (16, None, None),
        (16, None, None),
        (16,),
        (10,),
    ]
    for size in (8, 11, 30):
        assert net(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_a_given_input_makes_every_size_known():
    net = Chain(Conv(3, 8, 3), MaxPool(2), Flatten(), Dense(..., 10), input=(3, 8, 8))
    assert shapes(net) == [(3, 8, 8), (8, 6, 6), (8, 3, 3), (72,), (10,)]


def test_flatten_of_an_unknown_size_leaves_the_chain_open():
    net = Chain(Conv(3, 8, 3), Flatten(), Dense(..., 10))
    with pytest.raises(OpenChainError, match=r"Dense\(\.\.\., 10\).*last dimension|waits for the width"):
        net(torch.randn(2, 3, 8, 8))
    assert net.build((3, 8, 8))[2].in_features == 288


def test_planned_shapes_are_the_real_ones():
    net = Chain(
        Conv(1, 4, 3, relu, padding=1),
        Skip(Conv(4, 4, 3, padding=1), BatchNorm(), act=relu),
        MaxPool(2),
        Conv(..., 6, 3, stride=2, padding=1),
        Flatten(),
        Dense(..., 5),
        input=(1, 12, 12),
        wiring=[Shortcut(1, 2, merge="cat"), Shortcut(3, 4, path="project")],
    )
    got = net.features(torch.randn(2, 1, 12, 12), at=range(len(net) + 1))
    planned = [node.form.shape for node in net.plan.nodes if not node.where]
    assert [tuple(v.shape[1:]) for v in got.values()] == planned


def test_tokens_keep_their_feature_axis():
    net = Chain(nn.Embedding(10, 4), Skip(LayerNorm(), Dense(..., 4), merge="cat"), Dense(..., 2), input=(7,))
    assert net(torch.randint(0, 10, (3, 7))).shape == (3, 7, 2)


def test_lifetimes_know_their_last_reader():
    net = Chain(*[Dense(4, 4) for _ in range(6)], wiring=unet())
    assert [node.last_reader for node in net.plan.nodes[:4]] == [6, 5, 4, 4]


def test_the_plan_holds_no_tensors():
    plan = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1)).plan

    def tensors(thing, seen):
        if id(thing) in seen or isinstance(thing, nn.Module):
            return []
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            return [thing]
        inner = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple, set)) else None
        if inner is None:
            inner = vars(thing).values() if hasattr(thing, "__dict__") else ()
        return [t for item in inner for t in tensors(item, seen)]

    assert tensors(plan, set()) == []


# -- the dry run leaves no trace ---------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Keeps a running count in a buffer, also in eval mode, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x + torch.rand_like(x)


def test_the_dry_run_moves_no_statistics_and_draws_nothing():
    layers = [Conv(3, 4, 3), BatchNorm(4), Counting(), nn.Dropout(0.5), Skip(Conv(4, 4, 3, padding=1), drop=0.5)]
    before = [copy.deepcopy(layer.state_dict()) for layer in layers]
    state = torch.get_rng_state()
    net = Chain(*layers, input=(3, 8, 8))
    str(net)
    assert torch.equal(torch.get_rng_state(), state)
    for layer, held in zip(layers, before, strict=True):
        assert all(torch.equal(held[k], v) for k, v in layer.state_dict().items())
    assert all(m.training for m in net.modules())


def test_the_dry_run_fires_no_hooks():
    fired = []
    layer = Dense(4, 4)
    layer.register_forward_hook(lambda *_: fired.append("hook"))
    layer.register_forward_pre_hook(lambda *_: fired.append("pre"))
    net = Chain(layer, Dense(4, 2), input=(4,))
    assert fired == []
    net(torch.ones(1, 4))
    assert fired == ["pre", "hook"]


def test_a_chain_on_the_meta_device_is_planned_too():
    with torch.device("meta"):
        net = Chain(Dense(4, 5), Dense(..., 3), wiring=every(1, path="project"))
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert shapes(net) == [(4,), (5,), (3,)]


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: x.view(len(x), -1),
        lambda x: torch.stack([row * 2 for row in x]),
        lambda x: x if float(x.detach().sum()) < 1e9 else x * 0,
        lambda x: torch.from_numpy(x.detach().numpy() * 2),
    ],
    ids=["view", "rows", "looks at numbers", "numpy"],
)
def test_layers_that_are_hard_to_run_dry(layer, x4):
    net = Chain(Dense(4, 4), layer, Dense(..., 2))
    assert not net.is_open
    assert torch.equal(net(x4), net[2](layer(net[0](x4))))


# -- dtype and device --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "open_part", [lambda: Dense(..., 4), lambda: Skip(Dense(..., 4)), lambda: Skip(Dense(..., 4), merge="gate")]
)
def test_what_is_made_at_build_follows_the_precision_of_the_rest(open_part, x4):
    net = Chain(Dense(4, 4).double(), open_part(), wiring=[Shortcut(0, 1, path=Project(always=True))])
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(x4.double()).dtype == torch.float64


def test_build_in_inference_mode_makes_ordinary_parameters(x4):
    net = Chain(Dense(..., 4), wiring=every(1))
    with torch.inference_mode():
        net.build(4)
    assert net(x4).requires_grad
    assert not any(p.is_inference() for p in net.parameters())


def test_build_without_gradients_makes_ordinary_parameters():
    with torch.no_grad():
        net = Chain(Dense(..., 4)).build(4)
    assert all(p.requires_grad for p in net.parameters())


def test_build_in_eval_mode_makes_modules_in_eval_mode():
    net = Chain(Dense(..., 5)).eval()
    net = Chain(net, wiring=[Shortcut(0, 1, path=Project(norm=BatchNorm))]).eval()
    net.build(4)
    assert not any(m.training for m in net.modules())


# -- errors ------------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_together_each_with_its_fix():
    with pytest.raises(ShapeError) as caught:
        Chain(a=Dense(10, 5), b=Dense(6, 4), c=Dense(4, 4), d=Dense(3, 2), wiring=[Shortcut("a", "c")])
    text = str(caught.value)
    assert "3 reasons" in text
    assert "layer 'b' = Dense(6, 4)" in text
    assert "write Dense(5, 4) or Dense(..., 4)" in text
    assert "shortcut 'a->c'" in text
    assert 'path="project"' in text
    assert "layer 'd' = Dense(3, 2)" in text
    assert "test_plan.py:" in text


def test_a_misfit_names_the_shortcut_both_values_their_shapes_and_places():
    with pytest.raises(ShapeError) as caught:
        Chain(
            stem=Dense(8, 16),
            head=Dense(16, 2),
            wiring=[Shortcut("input", "head")],
        )
    text = str(caught.value)
    for part in ("'input->head'", "'input' (N, 8)", "'head' (N, 2)", "test_plan.py:", 'fix: add path="project"'):
        assert part in text
    line = caught.traceback[0].lineno + 1
    assert any(f"test_plan.py:{line + i}" in text for i in range(6))


def test_a_width_that_a_concatenation_made_is_explained():
    with pytest.raises(
        ShapeError, match=r"takes 5 features and gets 9.*5 of the branch \+ 4 by the shortcut 'input->a'"
    ):
        Chain(a=Dense(4, 5), b=Dense(5, 2), wiring=[Shortcut("input", "a", merge="cat")])


@pytest.mark.parametrize(
    ("wiring", "what"),
    [
        ([Shortcut("stme", "output")], r"no value 'stme' for its start: did you mean 'stem'"),
        ([Shortcut(0, 5)], r"its end is 5, and this chain has 2 layers, so its values are 0 to 2"),
        ([Shortcut(-4, 1)], r"its start is -4"),
        ([Shortcut("b", "stem")], r"goes backwards, from 'b' to 'stem'.*swap its ends"),
        ([Shortcut("b", "b")], r"from a value to itself"),
        ([Shortcut(1, "stem")], r"from a value to itself"),
        ([Shortcut("b.c", "b")], r"'b.c' is inside 'b', a Dense: only the values of a Chain"),
        ([Shortcut(0, 1), Shortcut(0, 1)], r"another shortcut of this name.*name="),
    ],
)
def test_ends_that_do_not_exist_are_found_at_construction(wiring, what):
    with pytest.raises(ChainError, match=rf"(?s)\(test_plan\.py:\d+\).*{what}"):
        Chain(stem=Dense(4, 4), b=Dense(4, 4), wiring=wiring)


def test_wrong_images_are_told_in_channels_and_dimensions():
    with pytest.raises(ShapeError, match=r"takes 1 channels and gets 3 .*Conv\(3, 8, 3\) or Conv\(\.\.\., 8, 3\)"):
        Chain(Conv(1, 8, 3), input=(3, 8, 8))
    with pytest.raises(ShapeError, match=r"1 channels and 2 dimensions, and gets 'input' \(N, 8, 8\)"):
        Chain(Conv(1, 8, 3), input=(8, 8))


def test_an_open_dense_on_an_image_is_refused_with_the_fix():
    with pytest.raises(ShapeError, match=r"last axis.*axis 1: put Flatten\(\) or GlobalAvgPool\(\)"):
        Chain(Conv(1, 8, 3), Dense(..., 10), input=(1, 8, 8))
    with pytest.raises(ShapeError, match=r"axis 1.*last axis: put LayerNorm"):
        Chain(Dense(4, 4), BatchNorm(), input=(7, 4))


def test_softmax_over_the_wrong_axis_is_refused():
    with pytest.raises(ShapeError, match=r"softmax.*axis 1: write lambda x: softmax\(x, axis=1\)"):
        Chain(Conv(1, 4, 3), softmax, input=(1, 8, 8))


def test_a_size_that_does_not_halve_and_double_back_is_told():
    up = nn.ConvTranspose2d(8, 1, 2, stride=2)
    net = Chain(down=Conv(1, 8, 3, stride=2, padding=1), up=up, wiring=[Shortcut("input", "up", merge="cat")])
    assert net(torch.ones(1, 1, 8, 8)).shape == (1, 2, 8, 8)
    with pytest.raises(ShapeError, match=r"(?s)'input->up'.*\(N, 1, 10, 10\).*\(N, 1, 9, 9\).*halve and double back"):
        net(torch.ones(1, 1, 9, 9))


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (lambda: nn.LSTM(4, 4), "returns a tuple of 2; a chain carries one tensor: wrap it"),
        (lambda: lambda x: x.sum(), "single number"),
        (lambda: lambda x: None, "returns a NoneType"),
        (lambda: lambda x: {"a": x}, "returns a dict"),
    ],
)
def test_layers_that_return_no_tensor(layer, what, x4):
    with pytest.raises(ShapeError, match=what):
        Chain(Dense(4, 4), layer())
    with pytest.raises(ShapeError, match=what):
        Chain(layer())(x4)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(5), lambda: nn.Sequential(nn.LazyLinear(5))])
def test_lazy_modules_are_refused_in_one_clear_sentence(make):
    with pytest.raises(ChainError, match="makes its parameters in the first forward") as caught:
        Chain(Dense(4, 4), make())
    assert "uninitialized" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda: Dense(..., 5), lambda: BatchNorm(), lambda: LayerNorm()])
def test_open_layers_inside_other_modules_are_refused_or_closed(make, x4):
    try:
        net = Chain(Dense(4, 4), nn.Sequential(make(), nn.ReLU()))
    except (ChainError, OpenChainError) as error:
        assert "NoneType" not in str(error)  # noqa: PT017 - torch's text helps nobody
        assert "width" in str(error)  # noqa: PT017
    else:
        assert len(list(net.parameters())) == 4


def test_a_mistake_in_a_users_layer_keeps_its_traceback(x4):
    class Faulty(nn.Module):
        armed = False

        def forward(self, x: Tensor) -> Tensor:
            if self.armed:
                raise KeyError("mine")
            return x

    net = Chain(Dense(4, 4), Faulty())
    net[1].armed = True
    with pytest.raises(Exception, match="mine") as caught:
        net(x4)
    chained = caught.value
    while chained is not None and not isinstance(chained, KeyError):
        chained = chained.__cause__
    assert isinstance(chained, KeyError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain(Dense(4, 4), DropPath(0.5)),
        lambda: Chain(Dense(4, 4), nn.Sequential(DropPath(0.5))),
        lambda: Chain(Dense(4, 4), Chain(DropPath(0.5), Dense(4, 4))),
    ],
)
def test_random_drop_without_a_shortcut_around_it_is_refused(make, x4):
    with pytest.raises(ChainError, match="drop the only path"):
        make()(x4)


def test_random_drop_inside_a_skip_is_fine(x4):
    assert Chain(Skip(Dense(4, 4), DropPath(0.5)))(x4).shape == (3, 4)
    assert Chain(Dense(4, 4), DropPath(0.5), wiring=[Shortcut(0, 2)])(x4).shape == (3, 4)


def test_dense_100_is_planned_quickly_enough_to_be_used():
    net = Chain(*[Dense(4, 4) for _ in range(100)], wiring=dense())
    assert len(net.plan.edges) == 100 * 99 // 2
