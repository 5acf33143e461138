import json
import math
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    DataError,
    Dense,
    Flatten,
    Gate,
    LayerNorm,
    Learned,
    MaxPool,
    OpenChainError,
    ShapeError,
    Shortcut,
    Skip,
    every,
    gelu,
    relu,
    sliding,
    tanh,
    zoo,
)  # fmt: skip
from skipway.study import Signal, signal
from skipway.zoo.initialise import he

WIDTH = 128


def chain(depth, block, wiring=(), act=relu):
    """A function that makes a chain of blocks with He's weights."""
    parts = {
        "act": lambda: [act, Dense(WIDTH, WIDTH, bias=False)],
        "norm": lambda: [BatchNorm(WIDTH), act, Dense(WIDTH, WIDTH, bias=False)],
        "layer": lambda: [LayerNorm(WIDTH), act, Dense(WIDTH, WIDTH)],
        "post": lambda: [Dense(WIDTH, WIDTH, act)],
    }
    return lambda: he(
        Chain(*[layer for _ in range(depth) for layer in parts[block]()], wiring=wiring, input=WIDTH),
        "fan_in", dense=True,
    )  # fmt: skip


def test_what_is_measured_is_what_happens():
    net = Chain(stem=Dense(5, 7, tanh), a=Dense(7, 7, tanh), head=Dense(7, 3), wiring=[Shortcut("stem", "a")])
    x = torch.randn(20, 5)
    found = signal(net, x)
    assert found.names == ("input", "stem", "a", "head")
    assert found.depths == (0, 1, 2, 3)
    assert (found.seeds, found.rows_used) == ((0,), 20)
    values = net.features(x, at=["stem", "a", "head"])
    expected = [float(v.detach().square().mean()) for v in (x, *values.values())]
    assert found.forward[0] == pytest.approx(expected, rel=1e-5)
    # the gradient of one random direction at the output
    torch.manual_seed(0)
    above = torch.randn(20, 3, dtype=torch.float64)
    double = Chain(*net, wiring=[Shortcut(1, 2)]).double()
    at = double.features(x.double(), at=[1, 2, 3])
    gradients = torch.autograd.grad(at[3], [at[1], at[2]], above)
    assert found.backward[0][1:3] == pytest.approx([float(g.norm() / above.norm()) for g in gradients], rel=1e-4)
    assert found.backward[0][3] == 1.0


def test_of_a_linear_chain_everything_is_exact():
    factor = 1.25
    net = Chain(*[Dense(6, 6, bias=False) for _ in range(5)])
    for layer in net:
        layer.weight.data = factor * torch.linalg.qr(torch.randn(6, 6))[0]  # keeps lengths, but for the factor
    found = signal(net, rows=8)
    assert found.backward[0] == pytest.approx([factor ** (5 - k) for k in range(6)], rel=1e-5)
    assert found.forward[0] == pytest.approx([found.forward[0][0] * factor ** (2 * k) for k in range(6)], rel=1e-5)
    # theory knows the squares of the weights, and here it is right to the last digit
    assert found.theory_forward == pytest.approx(found.forward[0], rel=1e-6)
    assert found.theory_backward == pytest.approx(found.backward[0], rel=1e-6)
    assert found.verdict().startswith("Gradients keep their size: those at the input are 3.1 times")


def images(depth, wiring=(), norm=False, act=relu):
    """A function that makes a chain of convolutions over images so small that their edges matter."""
    block = [lambda: BatchNorm(CHANNELS)] * norm + [lambda: act, lambda: Conv(CHANNELS, CHANNELS, 3, padding=1)]
    layers = lambda: [make() for _ in range(depth) for make in block]  # noqa: E731
    return lambda: he(Chain(*layers(), wiring=wiring, input=(CHANNELS, 5, 6)), "fan_in", dense=True)


def strided():
    layers = [Conv(3, 48, 3, tanh, stride=2), Conv(48, 96, (1, 3), tanh, padding=(0, 2), groups=2), Flatten()]
    return Chain(*layers, Dense(..., 40, tanh), Dense(40, 20), input=(3, 9, 8))


def gates(merge, act=tanh, depth=12):
    return lambda: he(
        Chain(*[Dense(WIDTH, WIDTH, act) for _ in range(depth)], wiring=every(1, merge=merge), input=WIDTH),
        "fan_in", dense=True,
    )  # fmt: skip


CHANNELS = 32
TWICE = [*every(2)(8), Shortcut(0, 4), Shortcut(0, 8, name="again"), Shortcut(0, 8)]
CASES = {
    "plain": (chain(8, "act"), 16),
    "residual": (chain(10, "act", every(2)), 16),
    "residual / sqrt(L)": (chain(30, "act", every(2, scale=30**-0.5)), 16),
    "halves": (chain(6, "act", every(2, merge="mean")), 16),
    "plain + BN": (chain(6, "norm"), 256),
    "residual + BN": (chain(12, "norm", every(3)), 256),
    "residual + LN": (chain(12, "layer", every(3)), 16),
    "post-activation": (chain(8, "post", every(1)), 16),
    "learned": (chain(8, "act", every(2, scale=Learned(0.5), path_scale=Learned(0.9, per="channel"))), 16),
    "tanh": (chain(8, "act", (), tanh), 16),
    "gelu": (chain(8, "act", every(2, scale=0.3), gelu), 16),
    "projected": (chain(4, "act", every(2, path="project")), 16),
    "crossing": (chain(6, "act", [Shortcut(0, 4), Shortcut(2, 8), Shortcut(2, 6), Shortcut(0, 12)]), 16),
    "twice": (chain(4, "act", TWICE), 16),
    "convolutions": (images(4), 8),
    "residual convolutions": (images(8, every(2, scale=0.5)), 8),
    "residual convolutions + BN": (images(6, every(3), norm=True), 32),
    "projected convolutions": (images(4, every(2, path="project"), act=tanh), 8),
    "strided convolutions": (strided, 32),
    "highway": (gates(Gate(-1.0)), 16),
    "highway, relu": (gates(Gate(-2.0), relu), 16),
    "highway, two gates": (gates(Gate(-1.0, free=True)), 16),
    "gate on the shortcut": (gates(Gate(0.0, on="shortcut")), 16),
    "gate on the branch": (gates(Gate(0.0, on="branch"), depth=6), 16),
    "gated convolutions": (
        lambda: Chain(
            *[Conv(CHANNELS, CHANNELS, 3, tanh, padding=1) for _ in range(5)],
            wiring=every(1, merge=Gate(-1.0), scale=2.0),
            input=(CHANNELS, 5, 5),
        ),
        8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_theory_is_what_wide_nets_do(name):
    make, rows = CASES[name]
    found = signal(make, seeds=6, rows=rows)
    assert not found.stopped
    for measured, theory in ((found.forward, found.theory_forward), (found.backward, found.theory_backward)):
        for value, law in zip(zip(*measured, strict=True), theory, strict=True):
            logs = [math.log(v / law) for v in value]
            error = (sum(v * v for v in logs) / len(logs)) ** 0.5
            mean = sum(logs) / len(logs)
            # the scatter of the draws, by which a mean of logarithms is also too low, and a width that is not infinite
            assert abs(mean) < 3 * error / math.sqrt(len(logs)) + error**2 / 2 + 0.05
            assert error < 0.6


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (chain(12, "act", every(2)), lambda k: 2.0**k),
        (chain(12, "act", every(2, scale=0.5, path_scale=0.5)), lambda k: 0.5**k),
        (chain(12, "norm", every(3)), lambda k: k + 1.0),
        (chain(12, "act"), lambda k: 1.0),
    ],
    ids=["residual", "halves", "residual + BN", "plain"],
)
def test_theory_gives_the_laws_of_he_weights(make, law):
    found = signal(make, seeds=1, rows=256)
    # the squares of the weights that were drawn are within a few hundredths of He's
    start = found.theory_forward[0]
    assert [v / start for v in found.theory_forward] == pytest.approx([law(k) for k in range(13)], rel=0.12)


def test_theory_stops_where_it_has_no_law():
    for net, at in (
        (Chain(Dense(8, 8), relu, Dense(8, 8), wiring=[Shortcut(1, 2)]), "one is made of the other"),
        (Chain(Dense(8, 8, relu), Dense(8, 8), wiring=[Shortcut(0, 1, merge="max")]), "merges by max"),
        (Chain(Dense(8, 8, relu), relu, nn.Softmax(-1)), "softmax"),
        (Chain(Conv(2, 2, 3, padding=1), MaxPool(2), input=(2, 6, 6)), "maxpool"),
        (Chain(Conv(2, 2, 3, padding=1, padding_mode="circular"), input=(2, 6, 6)), "padding is 'circular'"),
        (Chain(Skip(Dense(8, 8), drop=0.5)), "dropped at random"),
        (Chain(Dense(8, 8), Skip(Dense(8, 8), path=nn.Tanh())), "a shortcut along Tanh"),
    ):
        found = signal(net)
        assert at in found.stopped
        assert found.theory_forward[0] is not None
        assert found.theory_forward[-1] is None
        # a law for the layers before is told from where it ends on, in what was measured there
        known = [i for i, law in enumerate(found.theory_backward) if law is not None]
        assert known == list(range(len(known)))
        assert found.theory_backward[-1] is None
        assert at in str(found)
        assert all(v > 0 for v in found.forward[0] + found.backward[0])


def test_theory_ends_before_the_shortcuts_that_lead_past_where_it_stops():
    layers = [Dense(8, 8) for _ in range(4)]
    found = signal(Chain(*layers, nn.Softmax(-1), Dense(8, 8), wiring=[Shortcut(1, 3), Shortcut(2, 6)]), seeds=1)
    assert found.stopped == "softmax (4)"
    laws = dict(zip(found.names, found.theory_backward, strict=True))
    # values 2 to 6 lie under a shortcut, value 2 under 1 -> 3: the last one from which all gradients come is value 1
    assert [name for name, law in laws.items() if law is not None] == list(found.names[:2])


def test_theory_before_a_pool_begins_at_the_gradient_that_comes_out_of_it():
    make = images(6, every(2, scale=0.5))
    found = signal(lambda: Chain(body=make(), pool=MaxPool(2), head=Flatten(), end=Dense(..., 9)), seeds=4, rows=8)
    assert found.stopped == "maxpool (pool)"
    mean = found.mean("backward")
    known = [(a, b) for a, b in zip(mean, found.theory_backward, strict=True) if b is not None]
    assert len(known) == 7
    assert known[-1][0] == pytest.approx(known[-1][1])
    assert known[0][0] > 1.2 * known[-1][0]
    assert [a / b for a, b in known] == pytest.approx([1] * 7, rel=0.15)


def test_edges_of_images_are_counted():
    net = Chain(*[Conv(1, 64, 3, padding=1, bias=False) if i == 0 else Conv(64, 64, 3, padding=1, bias=False)
                  for i in range(6)], input=(1, 3, 3))  # fmt: skip
    found = signal(net, torch.randn(400, 1, 3, 3))
    assert found.theory_forward == pytest.approx(found.forward[0], rel=0.2)
    # had every tap an input, each layer would keep what the weights of 1 / (3 fan-in) leave: a third
    wide = [found.forward[0][0] / 3**k for k in range(7)]
    assert found.theory_forward[-1] < wide[-1] / 4


def test_a_thousand_layers():
    layers = [layer for _ in range(1000) for layer in (relu, Dense(8, 8, bias=False))]
    net = Chain(*layers, wiring=every(2, scale=1000**-0.5), input=8)
    began = time.process_time()
    found = signal(net, rows=8)
    assert time.process_time() - began < 20  # three seconds, on a machine that is not busy
    assert len(found.names) == 1001
    assert str(found).count("\n") < 30
    assert 0.3 < found.gradient_ratio < 5


@pytest.mark.parametrize(
    ("backward", "said"),
    [
        (
            [1.2 ** (50 - k) for k in range(51)],
            "Gradients grow 1.2x a layer on their way back: expect 10^8 at depth 100",
        ),
        ([0.5 ** (50 - k) for k in range(51)], "Gradients shrink 0.5x a layer on their way back: expect 10^-30 at"),
        ([(51 / (1 + k)) ** 0.7 for k in range(51)], "Gradients grow like depth^0.7 on their way back: expect 25 at"),
        ([2.0 - k / 50 for k in range(51)], "Gradients keep their size: those at the input are 2 times those"),
        ([0.0] * 50 + [1.0], "Gradients are zero somewhere on their way back"),
        ([math.inf] * 50 + [1.0], "Gradients are not finite"),
    ],
)
def test_the_verdict_follows_from_the_numbers(backward, said):
    names = tuple(map(str, range(51)))
    found = Signal(names, tuple(range(51)), ((1.0,) * 51,), (tuple(backward),), (None,) * 51, (None,) * 51)
    assert found.verdict().startswith(said)
    assert "Mean squares keep their size" in found.verdict()
    json.dumps(found.to_dict(), allow_nan=False)


def test_known_nets_get_the_verdict_they_are_known_for():
    assert "Gradients grow 1.2" in signal(chain(30, "norm"), seeds=1, rows=256).verdict()
    assert signal(chain(30, "norm", every(3)), seeds=1, rows=256).verdict().startswith("Gradients change less than")
    assert "Mean squares grow like depth^" in signal(chain(30, "norm", every(3)), seeds=1, rows=256).verdict()
    assert signal(chain(20, "act", every(2)), seeds=1).verdict().startswith("Gradients grow 1.4")
    rezero = signal(zoo.rezero_mlp(8, 16, 30, 4))
    assert rezero.verdict().startswith("Gradients keep their size")


def test_images_and_nested_chains_have_a_trunk():
    found = signal(zoo.cifar_resnet(20), rows=4)
    # the input, the first convolution, its relu, nine blocks, the head
    assert len(found.names) == 13
    assert found.names[:5] == ("input", "conv", "relu", "stage1.0", "stage1.1")
    assert found.depths[-1] == 20
    nested = Chain(Dense(4, 4), Skip(Skip(Dense(4, 4, relu)), Dense(4, 4)), Dense(4, 4))
    assert signal(nested).names == ("input", "0", "1.0", "1", "2")


def test_nothing_is_left_behind_and_seeds_repeat():
    net = Chain(Dense(4, 8), BatchNorm(8), nn.ReLU(inplace=True), nn.Dropout(0.5), Dense(8, 2)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    first, second = signal(net, seed=3), signal(net, seed=3)
    assert first == second
    assert first != signal(net, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert len(signal(lambda: Chain(Dense(3, 3)), seeds=4).forward) == 4


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path):
    found = signal(chain(4, "act", every(2)), seeds=2)
    assert found.verdict() in str(found)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["seeds"] == [0, 1]
    assert stored["verdict"] == found.verdict()
    assert len(stored["forward"][1]) == len(stored["names"]) == 5
    figure = found.plot(tmp_path / "signal.png")
    assert (tmp_path / "signal.png").read_bytes().startswith(b"\x89PNG")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]  # two draws, their mean, and the theory
    assert list(figure.axes[1].lines[-1].get_ydata()) == list(found.theory_backward)
    with pytest.raises(AttributeError):
        found.seeds = ()
    with pytest.raises(ChainError, match='"forward" and "backward"'):
        found.mean("sideways")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: signal(nn.Linear(2, 2)), ChainError, "not a Linear"),
        (lambda: signal(lambda: "net"), ChainError, "not a str"),
        (lambda: signal(Chain(Dense(..., 2))), OpenChainError, "open"),
        (lambda: signal(Chain(relu)), ChainError, "give it input=.*or give x"),
        (lambda: signal(Chain(Dense(2, 2)), torch.ones(3, 5)), ShapeError, "takes 2"),
        (lambda: signal(Chain(Dense(2, 2)), torch.full((3, 2), math.nan)), DataError, "3 of 3 rows hold"),
        (lambda: signal(Chain(Dense(2, 2)), torch.ones(2)), DataError, "takes a batch"),
        (lambda: signal(Chain(Dense(2, 2)), [1.0]), DataError, "not a list"),
        (lambda: signal(Chain(Dense(2, 2)), seeds=0), ChainError, "seeds must be"),
        (lambda: signal(Chain(Dense(2, 2)), rows=0), ChainError, "rows must be"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_wirings_of_one_chain_differ_in_their_signal():
    plain = signal(chain(12, "act"), seeds=2)
    overlapping = signal(chain(12, "act", sliding(4, scale=0.5)), seeds=2)
    assert overlapping.gradient_ratio > plain.gradient_ratio


def test_a_step_at_one_layer_is_no_law_and_few_layers_are_none():
    names, depths = tuple(map(str, range(41))), tuple(range(41))
    level = (None,) * 41
    step = Signal(names, depths, ((1.0,) * 41,), ((30.0, *[1.0] * 40),), level, level)
    assert step.verdict().startswith("Gradients keep their size from layer to layer, but for some steps: those at the")
    few = Signal(names[:5], depths[:5], ((1.0,) * 5,), ((81.0, 27.0, 9.0, 3.0, 1.0),), level[:5], level[:5])
    assert "81 times those at the output, over 4 layers, too few to tell a law." in few.verdict()
