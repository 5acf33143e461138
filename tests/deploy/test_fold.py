"""Each fold and each refusal, by itself."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from skipway import (
    AvgPool,
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    DiracConv,
    Drop,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Learned,
    MaxPool,
    OpenChainError,
    Parallel,
    Project,
    Shake,
    ShakeDrop,
    ShapeError,
    Shortcut,
    Skip,
    SqueezeExcite,
    Swapout,
    Warmup,
    Weighted,
    dense,
    every,
    relu,
    set_step,
    tanh,
    tie,
)
from skipway.deploy import Clamp, Folded, PerChannel, fold


def disturbed(net: Chain) -> Chain:
    """In eval mode, as training would leave it: no norm is the identity."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.weight is not None:
                with torch.no_grad():
                    module.weight.uniform_(-1.0, 1.5)
                    module.bias.normal_()
    return net.eval()


def folded(net: Chain, example: torch.Tensor | None = None) -> Folded:
    """The net folded, and that float64 finds no difference."""
    made = fold(disturbed(net), example)
    exact = {d.precision: d for d in made.report.differences}
    assert exact["float64"].relative < 1e-12, made.report
    assert exact["float32"].relative < 5e-6, made.report
    return made


def refusals(net: Folded) -> dict[str, str]:
    return {f"{r.kind} {r.where}": r.why for r in net.report.refusals}


# -- norms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "code"),
    [
        (Chain(Dense(4, 3), BatchNorm(3), relu), "Chain(Dense(4, 3, relu))"),
        (Chain(BatchNorm(4), Dense(4, 3, bias=False), input=4), "Chain(Dense(4, 3))"),
        (Chain(Conv(3, 4, 3, bias=False), BatchNorm(4), input=(3, 7, 7)), "Chain(Conv(3, 4, 3), input=(3, 7, 7))"),
        (Chain(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), input=(3, 7)),
         "Chain(Conv(3, 4, 3, relu, dims=1), input=(3, 7))"),
        (Chain(BatchNorm(3), Conv(3, 4, 3), input=(3, 7, 7)), "Chain(Conv(3, 4, 3), input=(3, 7, 7))"),
        (Chain(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), tanh), "Chain(Dense(4, 3, tanh))"),
        (Chain(Chain(Dense(4, 3)), Chain(BatchNorm(3), relu)), "Chain(Dense(4, 3, relu))"),
        (Chain(Dense(4, 3), BatchNorm(3), BatchNorm(3), Dropout(0.5), nn.Identity()), "Chain(Dense(4, 3))"),
    ],
)  # fmt: skip
def test_norms(net, code):
    assert repr(folded(net)) == code


def test_norm_into_a_transposed_convolution():
    net = folded(Chain(nn.ConvTranspose2d(3, 4, 2, stride=2), BatchNorm(4), relu, input=(3, 5, 5)))
    assert [type(layer).__name__ for layer in net.modules_in_order] == ["ConvTranspose2d", "Wrapped"]


def test_norm_through_flatten_and_mean():
    net = folded(Chain(Conv(3, 4, 3, relu), BatchNorm(4), Flatten(), Dense(..., 2), input=(3, 6, 6)))
    assert repr(net) == "Chain(Conv(3, 4, 3, relu), nn.Flatten(), Dense(64, 2), input=(3, 6, 6))"
    net = folded(
        Chain(Conv(3, 4, 3, relu), BatchNorm(4), nn.AdaptiveAvgPool2d(2), Flatten(), Dense(..., 2), input=(3, 6, 6))
    )
    assert len(net) == 4
    net = folded(Chain(Conv(3, 4, 3, relu), BatchNorm(4), GlobalAvgPool(), Dense(..., 2), input=(3, 6, 6)))
    assert len(net) == 3


def test_norm_that_stays():
    net = folded(Chain(BatchNorm(3), relu, Conv(3, 4, 3, padding=1), input=(3, 6, 6)))
    assert refusals(net) == {"norm stays 0": "before it is the input; the convolution after it pads with zeros, which "
                                             "are not shifted"}  # fmt: skip
    net = folded(Chain(Dense(4, 4), BatchNorm(4), wiring=[Shortcut(1, 2, merge="max")]))
    assert refusals(net)["norm stays 1"] == "a shortcut carries the value between them; after it is the output"
    assert len(net) == 2


def test_norm_between_tokens_is_another_axis():
    net = folded(Chain(Dense(4, 4), nn.BatchNorm1d(5), input=(5, 4)))
    assert refusals(net)["norm stays 1"].startswith("it scales another axis than that of the features")


def test_norm_that_uses_the_batch():
    net = Chain(Dense(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    made = fold(net)
    assert made.report.refusals[0].why == "it uses the statistics of the batch in eval mode too"
    assert made.report.differences[0].absolute == 0


# -- clamps ------------------------------------------------------------------------------------------------------------


def test_norm_and_relu_become_a_clamp():
    net = disturbed(Chain(BatchNorm(6), relu, Conv(6, 4, 1, bias=False), relu, input=(6, 5, 5)))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0, 2.0, 0.5]))  # down, up, dead below and above zero
        net[0].bias.copy_(torch.tensor([0.5, 0.5, -1.0, 1.0, 0.0, -0.5]))
    made = fold(net)
    assert made.report.differences[0].relative < 1e-12
    assert [type(layer).__name__ for layer in made] == ["Clamp", "Conv2d"]
    assert made[0].both
    with torch.no_grad():
        net[0].weight.copy_(torch.rand(6) + 0.1)
    assert not fold(net)[0].both


def test_a_clamp_that_would_overflow():
    net = Chain(BatchNorm(2), relu, Dense(2, 2), input=2).eval()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 1e-35, 1.0
    made = fold(net)
    assert "overflow" in made.report.refusals[0].why
    assert made.report.differences[0].absolute == 0


def test_norm_relu_and_mean():
    net = folded(Chain(BatchNorm(3), nn.ReLU(), GlobalAvgPool(), Dense(3, 2), input=(3, 5, 5)))
    assert [type(layer) for layer in net] == [Clamp, GlobalAvgPool, Dense]


# -- means -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [AvgPool(2), AvgPool(3, stride=2, ceil_mode=True), nn.AdaptiveAvgPool2d(3)])
def test_mean_before_a_1x1_convolution(pool):
    net = folded(Chain(Conv(3, 4, 1), pool, relu, input=(3, 9, 9)))
    assert [type(layer) for layer in net] == [type(pool), type(Conv(3, 4, 1))]
    assert net[1].act is relu


def test_mean_over_everything_makes_it_a_dense_layer():
    net = folded(Chain(Conv(3, 6, 3, relu), Conv(6, 4, 1), BatchNorm(4), GlobalAvgPool(), input=(3, 9, 9)))
    assert repr(net) == "Chain(Conv(3, 6, 3, relu), GlobalAvgPool(), Dense(6, 4), input=(3, 9, 9))"


@pytest.mark.parametrize(
    "layers",
    [
        (Conv(3, 4, 3), AvgPool(2)),
        (Conv(3, 4, 1, relu), AvgPool(2)),
        (Conv(3, 4, 1, stride=2), AvgPool(2)),
        (Conv(3, 4, 1), AvgPool(3, padding=1)),  # zeros would count as zeros of the input
        (Conv(3, 4, 1), AvgPool(2, stride=1)),  # not cheaper
        (Conv(3, 4, 1), MaxPool(2)),
    ],
)
def test_means_that_stay(layers):
    net = folded(Chain(*layers, input=(3, 9, 9)))
    assert [type(layer) for layer in net] == [type(layer) for layer in layers]


# -- branches ----------------------------------------------------------------------------------------------------------


def repvgg_unit(width_in: int, width: int, stride: int = 1, groups: int = 1) -> Chain:
    def conv(kernel: int) -> Chain:
        made = Conv(width_in, width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        return Chain(made, BatchNorm(width))

    identity = [BatchNorm(width)] if width_in == width and stride == 1 else []
    return Chain(Parallel(conv(3), conv(1), *identity, merge="add"), relu)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (1, 2), (2, 1), (2, 4)])
def test_repvgg(stride, groups):
    net = folded(Chain(repvgg_unit(8, 8), repvgg_unit(8, 8, stride, groups), input=(8, 9, 9)))
    assert [(m.kernel_size, m.stride, m.groups) for m in net] == [((3, 3), (1, 1), 1), ((3, 3), (stride,) * 2, groups)]
    assert net.report.after.layers == 2


@pytest.mark.parametrize("merge", ["add", "mean"])
def test_branches_in_part(merge):
    branches = [Dense(4, 4), Chain(Dense(4, 4, relu), BatchNorm(4)), Chain(BatchNorm(4), Dense(4, 4))]
    net = folded(Chain(Parallel(*branches, merge=merge)))
    assert len(net[0].branches) == 2  # one linear, one not
    assert "merge='add'" in repr(net)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Parallel(Dense(4, 4), Dense(4, 4), merge="max"), "their merge is not a sum"),
        (Parallel(Dense(4, 4, relu), Dense(4, 4, tanh)), "no two of them are linear"),
        (Parallel(Dense(4, 4, tanh), Dense(4, 4), merge="mean"), "what it scales is not made by a linear layer"),
    ],
)
def test_branches_that_stay_apart(net, why):
    made = folded(Chain(net))
    assert refusals(made) == {"branches stay apart 0": why}
    assert len(made[0].branches) == 2


def test_shake_and_weighted_branches():
    for merge in (Shake(), Weighted("softmax")):
        net = folded(Chain(Parallel(Dense(4, 4), Chain(Dense(4, 4), BatchNorm(4)), merge=merge)))
        assert repr(net) == "Chain(Dense(4, 4))"


# -- shortcuts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "around",
    [
        Skip(Dense(4, 4)),
        Skip(Dense(4, 4), BatchNorm(4), Dropout(0.1), act=relu),
        Skip(Dense(4, 4), path="project", merge="mean"),
        Skip(Dense(4, 4), path=Project(always=True, norm=nn.BatchNorm1d), path_scale=0.5),
        Skip(Dense(4, 4), merge="sub"),
        Skip(Dense(4, 4), merge=Swapout(0.5, 0.2)),
        Skip(Dense(4, 4), merge=Weighted()),
        Skip(Dense(4, 4), scale=Learned(0.3, per="channel"), path_scale=Learned(-2.0)),
        Skip(Dense(4, 4), drop=Drop(0.25, law="test-scale")),
        Skip(Dense(4, 4), drop=0.25),
        Skip(Dense(4, 4), drop=ShakeDrop(0.5, alpha=(0.0, 1.0))),
        Skip(Skip(Dense(4, 4)), Dense(4, 4)),
        Skip(Dense(4, 16), Dense(16, 4)),
        Chain(Dense(4, 4), Dense(4, 4), wiring=every(1)),
    ],
)
def test_shortcuts_around_linear_layers(around):
    net = folded(Chain(around))
    assert len(net) == 1
    assert type(net[0]) is Dense
    assert net.report.after.shortcuts == 0


@pytest.mark.parametrize("path", ["pad", "project"])
def test_a_strided_shortcut(path):
    net = folded(Chain(Skip(Conv(3, 5, 3, stride=2, padding=1), BatchNorm(5), path=path, act=relu), input=(3, 9, 9)))
    assert repr(net) == "Chain(Conv(3, 5, 3, relu, stride=2, padding=1), input=(3, 9, 9))"


@pytest.mark.parametrize(
    ("around", "why"),
    [
        (Skip(Dense(4, 4, relu)), "an activation is inside it"),
        (Skip(Dense(4, 4, relu), Dense(4, 4)), "what is inside it is not one linear layer"),
        (Skip(Dense(32, 2), Dense(2, 32)), "what is inside it is not one linear layer"),  # a bottleneck is cheaper
        (Skip(Dense(4, 4), path=tanh), "its path is not one linear layer"),
        (Skip(Dense(4, 4), scale=SqueezeExcite(2)), "its scale is no constant"),
        (Chain(Dense(4, 4), wiring=[Shortcut(0, 1), Shortcut(0, 1, merge="max", name="m")]), ""),
    ],
)
def test_shortcuts_that_stay(around, why):
    net = folded(Chain(around))
    assert net.report.after.shortcuts == 1
    assert not why or why in [r.why for r in net.report.refusals]


def test_what_is_carried_elsewhere_stays():
    net = folded(Chain(Skip(Dense(4, 4)), relu, Dense(4, 4), wiring=[Shortcut("0.0", 3, tap="branch", merge="max")]))
    assert refusals(net)["shortcut stays 0.input->output"] == "its branch is read elsewhere too"
    assert len(net.wiring) == 1


def test_weights_of_many_shortcuts():
    net = Chain(
        *[Dense(4, 4, tanh) for _ in range(3)], Dense(4, 4), wiring=dense(merge=Weighted("softmax", init="mean"))
    )
    made = folded(net)
    assert not any("Weighted" in repr(s) for s in made.wiring)
    assert not refusals(made).get("scale stays 3")


# -- scales ------------------------------------------------------------------------------------------------------------


def test_rezero_goes_through_relu_unless_negative():
    made = folded(Chain(Dense(4, 4, relu), Dense(4, 4, relu), wiring=every(1, scale=Learned(0.7))))
    assert [s.scale for s in made.wiring] == [None, None]
    made = folded(Chain(Dense(4, 4, relu), Dense(4, 4, relu), wiring=every(1, scale=Learned(-0.7))))
    assert all("negative" in r.why for r in made.report.refusals if r.kind == "scale stays")
    assert [s.scale for s in made.wiring] == [Learned(-0.7)] * 2


def test_scales_go_through_pools():
    for pool in (MaxPool(2), AvgPool(2)):
        body = (Conv(3, 3, 3, padding=1), relu, pool)
        made = folded(Chain(Skip(*body, path=nn.MaxPool2d(2), scale=Learned(0.5, per="channel")), input=(3, 6, 6)))
        assert made[0].wiring[0].scale is None


def test_scales_that_stay():
    made = folded(Chain(Skip(Dense(4, 4, tanh), scale=0.5, path_scale=2.0, drop=Drop(0.25, law="test-scale"))))
    assert (made[0].wiring[0].scale, made[0].wiring[0].path_scale, made[0].wiring[0].drop) == (0.375, 2.0, 0.0)
    why = refusals(made)
    assert why["scale stays 0.input->output"] == "what it scales is not made by a linear layer"
    assert why["path_scale stays 0.input->output"] == "no linear layer comes before it"
    made = folded(Chain(Skip(Dense(4, 4), Dense(4, 4, relu), scale=SqueezeExcite(2))))
    assert "looks at the value" in refusals(made)["scale stays 0.input->output"]


def test_a_schedule_is_a_number_once_training_is_over():
    net = Chain(Skip(Dense(4, 4, tanh), Dense(4, 4), scale=Warmup(100)))
    set_step(net, 25)
    made = folded(net)
    assert made[0].wiring[0].scale is None
    assert torch.allclose(made[0][1].weight, net[0][1].weight * 0.25)


# -- layers that are left alone, and layers that say what they are -----------------------------------------------------


def test_a_layer_says_what_it_is():
    net = folded(Chain(DiracConv(3, 4, 3, relu), BatchNorm(4), DiracConv(4, 4, 3), BatchNorm(4), input=(3, 6, 6)))
    assert [type(m).__name__ for m in net.modules()].count("Conv2d") == 2
    assert net.report.folds[0].kind == "what a layer says it is in eval mode"


class Shifted(nn.Module):
    """One learned number, added: a layer of a user's own, that says what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return x + self.shift

    def folded(self):
        made = PerChannel(1)
        made.shift.data.fill_(self.shift.detach())
        return made


def test_a_layer_of_ones_own_says_what_it_is():
    net = folded(Chain(Shifted(), Dense(4, 4), Shifted(), relu, Dense(4, 2), Shifted(), input=4))
    assert repr(net) == "Chain(Dense(4, 4, relu), Dense(4, 2))"
    net = folded(Chain(Conv(3, 3, 3, relu), Shifted(), Conv(3, 3, 3, padding=1), input=(3, 6, 6)))
    assert refusals(net)["scale stays 1"].endswith("pads with zeros, which are not shifted")
    assert [type(layer) for layer in net][1] is PerChannel


@pytest.mark.parametrize("layer", [PerChannel, Clamp])
def test_a_layer_of_channels_tells_their_axis(layer):
    """So that what is printed can be built again."""

    def built(*args, shape):
        return Chain(layer(*args), wiring=[Shortcut(0, 1, path_scale=Learned(1.0, per="channel"))], input=shape)

    assert built(4, -3, shape=(4, 6, 6)).wiring[0].path_scale == Learned(1.0, per="channel")
    assert (4, 1, 1) in {tuple(p.shape) for p in built(4, -3, shape=(4, 6, 6)).parameters()}
    assert (4,) in {tuple(p.shape) for p in built(4, -1, shape=(6, 4)).parameters()}
    with pytest.raises(ShapeError, match="cannot tell the feature axis"):
        built(1, shape=(4, 6, 6))  # one number for all


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_computed_weights_are_stored(wrap):
    net = folded(Chain(wrap(nn.Linear(4, 4)), BatchNorm(4)))
    assert repr(net) == "Chain(Dense(4, 4))"
    net = folded(Chain(wrap(nn.Linear(4, 4)), tanh))
    assert not nn.utils.parametrize.is_parametrized(net[0])


def test_layers_that_are_left_alone():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) ** 2

    shared = tie(Dense(4, 4))
    hooked = Dense(4, 4)
    hooked.register_forward_hook(lambda module, args, out: out * 2)
    made = folded(Chain(Own(4, 4), BatchNorm(4), shared, BatchNorm(4), shared, hooked, BatchNorm(4)))
    assert [type(m).__name__ for m in made] == ["Own", "BatchNorm", "Dense", "BatchNorm", "Dense", "Dense", "BatchNorm"]
    assert made[2] is made[4]
    why = " ".join(r.why for r in made.report.refusals)
    assert all(word in why for word in ("a class of its own", "tie", "hooks"))


def test_shared_layers_are_shared_still():
    shared = tie(Dense(4, 4, tanh))
    made = folded(Chain(shared, tanh, shared))
    assert made[0] is made[2]
    assert made[0] is not shared


def test_hooks_of_chains():
    net = Chain(Chain(Dense(4, 4), BatchNorm(4)), Dense(4, 4), BatchNorm(4))
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    made = folded(net)
    assert type(made[0]) is Chain  # as it was, with its hook
    assert type(made[1]) is Dense
    net = Chain(Dense(4, 4), BatchNorm(4))
    net.register_forward_hook(lambda module, args, out: out)
    made = folded(net)
    assert made.report.refusals[-1].kind == "hooks are left behind"
    assert repr(made) == "Chain(Dense(4, 4))"


# -- the chain that comes out ------------------------------------------------------------------------------------------


def test_names_and_nesting_stay():
    net = Chain(
        stem=Chain(conv=Conv(3, 4, 3, padding=1), norm=BatchNorm(4), relu=relu),
        body=Chain(Skip(Conv(4, 4, 3, relu, padding=1), Conv(4, 4, 3, padding=1), BatchNorm(4), act=relu)),
        head=Chain(GlobalAvgPool(), Dropout(0.5), out=Dense(4, 2)),
        wiring=[Shortcut("stem.norm", "body", merge="max", name="far")],
        input=(3, 6, 6),
    )
    made = folded(net)
    assert [*made.values] == [
        "input", "stem.conv", "stem.relu", "stem", "body.0", "body.1", "body", "head.0", "head.out", "head",
    ]  # fmt: skip
    assert [(s.start, s.end, s.name) for s in made.wiring] == [("stem.conv", "body", "far")]
    assert type(made["body"]) is Skip


def test_patterns_stay():
    made = folded(Chain(*[Dense(4, 4, tanh) for _ in range(4)], Dropout(0.1), wiring=every(2)))
    assert repr(made).endswith("wiring=[Shortcut(0, 2), Shortcut(2, 4)])")  # for 4 layers, no longer for 5
    made = folded(
        Chain(*[Chain(Dense(..., 4, tanh), Dropout(0.5)) for _ in range(3)], wiring=dense(merge="cat"), input=4)
    )
    assert "wiring=dense(" in repr(made)


def test_values_that_become_one():
    net = Chain(
        Dense(4, 4, tanh), Dropout(0.5), Dense(4, 4, tanh), nn.Identity(), Dense(4, 4, tanh),
        wiring=[Shortcut(0, 4), Shortcut(1, 4), Shortcut(2, 4), Shortcut(1, 5), Shortcut(2, 5, tap="branch")],
    )  # fmt: skip
    made = folded(net)
    assert len(made) == 3
    assert len(made.wiring) == 5
    assert len({s.label for s in made.wiring}) == 5


def test_no_layers_are_left():
    made = folded(Chain(Dropout(0.5), Chain(nn.Identity()), input=3))
    assert len(made) == 0
    made = folded(Chain(Skip(Dropout(0.5)), input=3))
    assert [type(m) for m in made] == [PerChannel]


def test_the_result_is_a_chain_like_any_other():
    net = disturbed(Chain(Skip(Conv(3, 3, 3, relu, padding=1), Conv(3, 3, 1), BatchNorm(3)), input=(3, 6, 6)))
    made, x = fold(net), torch.randn(2, 3, 9, 9)
    expected = made(x)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin(x), expected)
        assert str(twin.report) == str(made.report)
    assert type(made.without("0.input->output")) is Chain
    assert fold(made).report.folds == ()
    assert made.code
    assert "Folded" in str(made)


def test_other_devices_and_precisions():
    net = disturbed(Chain(Dense(4, 4), BatchNorm(4), relu)).to(torch.bfloat16)
    made = fold(net)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert [d.precision for d in made.report.differences] == ["float64", "bfloat16"]
    double = fold(disturbed(Chain(Dense(4, 4), BatchNorm(4))).double())
    assert [d.precision for d in double.report.differences] == ["float64"]


def test_random_numbers_are_not_drawn():
    net = disturbed(Chain(Dense(4, 4), BatchNorm(4)))
    state = torch.get_rng_state()
    fold(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_thousand_layers():
    net = disturbed(Chain(*[Dense(8, 8, relu) for _ in range(1000)], wiring=every(2, scale=0.1)))
    assert fold(net, check=False).report.before.layers == 1000


# -- errors and reports ------------------------------------------------------------------------------------------------


def test_nets_that_cannot_be_folded():
    with pytest.raises(ChainError, match=r"training mode.*say net.eval\(\) first"):
        fold(Chain(Dense(4, 4)))
    partly = Chain(a=Dense(4, 4), b=Chain(BatchNorm(4))).eval()
    partly["b"][0].train()
    with pytest.raises(ChainError, match=r"'b.0' in this chain .* training mode"):
        fold(partly)
    with pytest.raises(OpenChainError, match="no folded form yet"):
        fold(Chain(Dense(..., 4)).eval())
    with pytest.raises(ChainError, match=r"takes a Chain.*not a Sequential: write Chain\(\*layers\)"):
        fold(nn.Sequential(nn.Linear(2, 2)))

    class Own(Chain):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ChainError, match="a forward of its own"):
        fold(Own(Dense(2, 2)).eval())


def test_a_layer_that_says_something_else():
    class Liar(nn.Linear):
        def folded(self):
            return nn.Linear(4, 4)

    with pytest.raises(ChainError, match="differs from the one it came from"):
        fold(Chain(Liar(4, 4)).eval())


def test_a_layer_that_knows_one_precision():
    net = disturbed(Chain(Dense(4, 4), BatchNorm(4), lambda x: x.float(), Dense(4, 4)))
    told = fold(net).report.differences
    assert [d.precision for d in told] == ["float64", "float32"]
    assert "not computed, since a layer fails in it" in str(told[0])
    assert told[1].relative < 1e-5


def test_inputs_that_cannot_be_drawn():
    net = disturbed(Chain(nn.Embedding(7, 4), lambda x: x.mean(1), Dense(4, 3), BatchNorm(3)))
    assert "give fold(net, example=...)" in str(fold(net).report.differences[0])
    made = fold(net, torch.randint(7, (2, 5)))
    assert made.report.differences[0].relative < 1e-12
    assert made.report.input == (2, 5)


def test_the_report_prints():
    net = disturbed(Chain(*[Skip(Dense(4, 4, relu), Dense(4, 4), BatchNorm(4)) for _ in range(30)], Dense(4, 4)))
    text = str(fold(net).report)
    assert max(map(len, text.splitlines())) <= 100
    assert "30 x norm into the layer before it (0.1, 1.1, 2.1" in text
    assert "30 x shortcut stays" in text
    assert "float64" in text
    assert "nothing" in str(fold(Chain(Dense(4, 4)).eval()).report)
