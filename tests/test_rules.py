"""The nine rules of the library, each by its own test; the details are tested where the code is."""

import copy
import pickle
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Learned,
    OpenChainError,
    Parallel,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    every,
    relu,
)


def example():
    """A net with everything that owns parameters: projection, scale, gate, nested chain, callable with parameters."""

    class Shift:
        def __init__(self) -> None:
            self.by = nn.Parameter(torch.zeros(6))

        def __call__(self, x: Tensor) -> Tensor:
            return x + self.by

    return Chain(
        stem=Dense(4, 6, relu),
        enc=Chain(a=Dense(6, 6, torch.tanh), b=Skip(Dense(..., 6), merge="gate")),
        shift=Shift(),
        head=Dense(..., 3),
        wiring=[
            Shortcut("stem", "enc.b", scale=Learned(0.5)),
            Shortcut("input", "shift", path="project"),
            Shortcut("enc.a", "shift", merge="cat"),
        ],
    )


# -- rule 1 ------------------------------------------------------------------------------------------------------------


def test_rule_1_all_parameters_exist_when_the_constructor_returns(x4):
    net = example()
    before = {name: id(p) for name, p in net.named_parameters()}
    net(x4)
    net(torch.randn(2, 5, 4))
    net.features(x4, at=["enc.a"])
    assert {name: id(p) for name, p in net.named_parameters()} == before


def test_rule_1_or_the_chain_is_open_and_says_so():
    net = Chain(Dense(..., 5), Skip(Dense(..., 5), path=Project(always=True)), wiring=[Shortcut(0, 2, path="project")])
    assert net.is_open
    assert "open" in str(net).splitlines()[0]
    for use in (net.parameters, net.state_dict, lambda: net(torch.ones(1, 3))):
        with pytest.raises(OpenChainError, match=r"input=.*build"):
            list(use())
    assert not net.build(3).is_open


# -- rule 2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["add", "mul", "mean", "max", "gate"])
@pytest.mark.parametrize(("start", "end"), [(4, 1), (1, 4), (4, 5)])
def test_rule_2_a_wrong_width_never_passes_silently(merge, start, end):
    with pytest.raises(ShapeError, match="needs equal shapes"):
        Chain(Dense(3, start), Dense(start, end), wiring=[Shortcut(1, 2, merge=merge)])


def test_rule_2_images_of_other_size_never_pass_silently():
    with pytest.raises(ShapeError, match="needs equal shapes"):
        Skip(Conv(3, 3, 8), input=(3, 8, 8))  # (3, 1, 1) would broadcast over the image
    net = Chain(Conv(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), wiring=[])
    with pytest.raises(ShapeError, match="needs equal shapes"):
        net.rewire([Shortcut(1, 2)])(torch.ones(1, 3, 8, 8))


def test_rule_2_no_weights_are_shared_by_accident():
    layer = Dense(4, 4)
    for make in (
        lambda: Chain(*[layer] * 3),
        lambda: Chain(layer, Skip(layer)),
        lambda: Chain(layer, Chain(relu, layer)),
        lambda: Chain(layer, Parallel(layer, Dense(4, 4))),
        lambda: Chain(layer, nn.Sequential(layer, nn.ReLU())),
        lambda: Chain(layer, wiring=[Shortcut(0, 1, path=layer)]),
        lambda: Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(i, i + 1, path=layer) for i in range(2)]),
    ):
        with pytest.raises(ChainError, match=r"(?s)same.*share.*tie"):
            make()


# -- rule 3 ------------------------------------------------------------------------------------------------------------


def test_rule_3_nothing_is_silently_untrained(x4):
    net = example()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert "shift.by" in before
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x4).pow(2).sum().backward()
        optimizer.step()
    unmoved = [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    assert unmoved == []


# -- rule 4 ------------------------------------------------------------------------------------------------------------


def test_rule_4_shapes_come_from_the_plan_and_leave_no_trace():
    layers = [Conv(3, 4, 3), BatchNorm(4), nn.Dropout(0.5), nn.RReLU()]
    before = [p.clone() for layer in layers for p in layer.state_dict().values()]
    state = torch.get_rng_state()
    net = Chain(*layers, Skip(nn.Dropout(0.5), drop=0.5), input=(3, 8, 8), wiring=[Shortcut(1, 2)])
    net.build((3, 10, 10))
    str(net), net.plan, repr(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for a, b in zip(before, [p for la in layers for p in la.state_dict().values()], strict=True)
    )
    assert net.plan.output.shape == (4, 8, 8)


# -- rule 5 ------------------------------------------------------------------------------------------------------------


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class DropsInTraining(nn.Module):
    """In place, but only in training: by code, so that no flag tells."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training, inplace=True)


IN_PLACE = [
    nn.ReLU(inplace=True),
    nn.Dropout(0.5, inplace=True),
    nn.Dropout2d(0.5, inplace=True),
    nn.AlphaDropout(0.5, inplace=True),
    nn.RReLU(inplace=True),
    nn.Sequential(nn.Identity(), nn.SiLU(inplace=True)),
    nn.Sequential(nn.Flatten(), nn.Dropout(0.5, inplace=True)),
    Chain(nn.ReLU(inplace=True)),
    Doubles(),
    DropsInTraining(),
    torch.relu_,
    lambda x: x.add_(1),
]


@pytest.mark.parametrize("layer", IN_PLACE, ids=lambda layer: getattr(layer, "__name__", type(layer).__name__))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("between", [[], [nn.Identity()], [nn.Flatten()]], ids=["next", "identity", "view"])
def test_rule_5_a_tapped_value_is_never_changed_in_place(layer, training, between, x4):
    stem = Dense(4, 4)
    try:
        net = Chain(stem, *between, layer, wiring=[Shortcut(1, -1, merge=lambda b, s: s + 0)]).train(training)
    except ChainError as error:
        assert "in place" in str(error)  # noqa: PT017 - refused, or made right
        return
    assert torch.equal(net(x4), stem(x4))


@pytest.mark.parametrize(
    "part", [{"merge": lambda b, s: b.add_(s)}, {"merge": lambda b, s: s.add_(b)}, {"path": torch.relu_}]
)
def test_rule_5_nor_by_the_shortcut_itself(part):
    with pytest.raises(ShapeError, match=r"in place.*without in-place"):
        Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(1, 2, **part)])


# -- rule 6 ------------------------------------------------------------------------------------------------------------


def test_rule_6_errors_name_both_ends_where_and_the_fix_all_together():
    with pytest.raises(ShapeError) as caught:
        Chain(
            stem=Dense(10, 5),
            body=Dense(14, 2),
            wiring=[Shortcut("input", "stem")],
        )
    text = str(caught.value)
    for part in (
        "2 reasons",
        "'input->stem'",
        "'input' (N, 10)",
        "'stem' (N, 5)",
        'path="project"',
        "'body'",
        "takes 14 features and gets 5",
        "write Dense(5, 2) or Dense(..., 2)",
    ):
        assert part in text
    lines = {int(w.split("test_rules.py:")[1].split(")")[0]) for w in text.split() if "test_rules.py:" in w}
    first = test_rule_6_errors_name_both_ends_where_and_the_fix_all_together.__code__.co_firstlineno
    # the lines of the layers, or of the shortcut, not only the one of the chain
    assert all(first < line < first + 10 for line in lines)
    assert lines


# -- rule 7 ------------------------------------------------------------------------------------------------------------


def test_rule_7_no_tensor_is_kept_on_a_module(x4):
    net = example()

    def held():
        seen = set()

        def walk(thing):
            if id(thing) in seen:
                return 0
            seen.add(id(thing))
            if isinstance(thing, Tensor):
                return 1
            if isinstance(thing, dict):
                return sum(map(walk, thing.values()))
            if isinstance(thing, (list, tuple, set, frozenset)):
                return sum(map(walk, thing))
            if isinstance(thing, nn.Module) or type(thing).__module__.startswith("skipway"):
                return walk(getattr(thing, "__dict__", {}))
            return 0

        return walk(net)

    before = held()
    net(x4)
    net.train()(x4).sum().backward()
    net.features(x4, at=["stem", "enc.a"])
    assert held() == before


def test_rule_7_copies_give_equal_outputs(x4):
    net = example().eval()
    plain = Chain(*[Dense(4, 4) for _ in range(3)], wiring=every(1)).eval()
    assert torch.equal(copy.deepcopy(net)(x4), net(x4))
    assert torch.equal(pickle.loads(pickle.dumps(plain))(x4), plain(x4))
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x4), net(x4))


# -- rule 8 ------------------------------------------------------------------------------------------------------------


def test_rule_8_moving_a_chain_moves_everything():
    net = example().to("meta")
    assert {t.device.type for t in [*net.parameters(), *net.buffers()]} == {"meta"}
    assert net(torch.empty(2, 4, device="meta")).device.type == "meta"
    assert example().double()(torch.ones(1, 4, dtype=torch.float64)).dtype == torch.float64


def test_rule_8_an_input_on_another_device_says_which_is_where():
    with pytest.raises(ChainError, match=r"the input is on meta and 'stem\.weight' of this chain is on cpu"):
        example()(torch.ones(1, 4, device="meta"))


# -- rule 9 ------------------------------------------------------------------------------------------------------------


def test_rule_9_the_forward_is_the_one_written_by_hand(x4):
    net = Chain(stem=Dense(4, 4), a=Dense(4, 4), b=Dense(4, 4), wiring=[Shortcut("stem", "b")])
    lines = [line.strip() for line in net.code.splitlines()]
    # three calls, one kept value, one free, and nothing else
    assert sum("(x)" in line for line in lines) == 3
    assert len(lines) <= 8


def test_rule_9_a_chain_costs_no_more_than_a_few_microseconds_a_call():
    layers = [nn.Identity() for _ in range(8)]
    net, x = Chain(*layers), torch.ones(1, 1)

    def by_hand(x):
        for layer in layers:
            x = layer(x)
        return x

    def best(f):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            f(x)
            times.append(time.perf_counter() - start)
        return min(times)

    net(x)
    # generous, since this machine may be busy: bench/ measures it properly
    assert best(net) < 3 * best(by_hand) + 20e-6
