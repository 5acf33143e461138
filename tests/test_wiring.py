import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import skipway
from skipway import (
    Chain,
    ChainError,
    Dense,
    Learned,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    from_input,
    log2,
    relu,
    sliding,
    tie,
    unet,
)
from skipway.wiring import resolve

PATTERNS = [every(1), every(3), sliding(2), dense(), log2(), unet(), from_input(), from_input(output=False)]


def ends(wiring, n):
    return [(s.start, s.end) for s in resolve(wiring, n)]


def paths(wiring, n):
    """How many ways lead from the input to the output, by dynamic programming."""
    count = [1] + [0] * n
    into = ends(wiring, n)
    for b in range(1, n + 1):
        count[b] = count[b - 1] + sum(count[a] for a, end in into if end == b)
    return count[n]


@pytest.mark.parametrize(
    ("wiring", "expected"),
    [
        ((), 1),
        (every(1), 4096),
        (every(2), 64),
        (sliding(2), 233),
        (dense(), 2048),
        (log2(), 542),
    ],
)
def test_path_counts_over_twelve_layers(wiring, expected):
    assert paths(wiring, 12) == expected


def test_unet_has_seven_paths_over_twelve_layers():
    # the bottom is one value (12 layers: 6 to 6), so six shortcuts
    assert len(ends(unet(), 12)) == 6
    assert paths(unet(), 12) == 7


def test_log2_has_twenty_five_more_edges_over_twelve_layers():
    assert len(ends(log2(), 12)) == 25


@pytest.mark.parametrize("n", range(1, 14))
def test_every_and_sliding_by_their_definitions(n):
    for k in range(1, n + 1):
        assert ends(every(k), n) == [(i * k, i * k + k) for i in range(n // k)]
        assert ends(sliding(k), n) == [(i, i + k) for i in range(n - k + 1)]


@pytest.mark.parametrize("n", range(2, 14))
def test_dense_log2_unet_and_from_input_by_their_definitions(n):
    assert set(ends(dense(), n)) == {(a, b) for a in range(n) for b in range(a + 2, n + 1)}
    powers = {1 << k for k in range(1, 10)}
    assert set(ends(log2(), n)) == {(a, b) for a in range(n) for b in range(n + 1) if b - a in powers}
    assert set(ends(unet(), n)) == {(i, n - i) for i in range(n) if i < n - i}
    assert ends(from_input(), n) == [(0, b) for b in range(1, n + 1)]
    assert ends(from_input(output=False), n) == [(0, b) for b in range(1, n)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("n", [3, 7, 12])
def test_patterns_go_forwards_and_make_no_edge_twice(pattern, n):
    made = ends(pattern, n)
    assert all(0 <= a < b <= n for a, b in made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_patterns_print_as_code_copy_and_pickle(pattern):
    again = eval(repr(pattern), vars(skipway))
    assert again(7) == pattern(7)
    for twin in (copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        assert twin(7) == pattern(7)
        assert repr(twin) == repr(pattern)


def test_options_reach_every_shortcut():
    options = {"merge": "mean", "path": Project(bias=True), "scale": Learned(0.1), "act": relu}
    made = every(2, **options)(6)
    assert made == [Shortcut(i, i + 2, **options) for i in (0, 2, 4)]
    assert eval(repr(every(2, **options)), vars(skipway))(6) == made


def test_wirings_add_in_order():
    more = [Shortcut(0, 12, name="all")]
    total = every(6) + every(4) + more
    assert total(12) == every(6)(12) + every(4)(12) + more
    assert (more + every(6))(12) == more + every(6)(12)
    assert repr(total) == "every(6) + every(4) + [Shortcut(0, 12, name='all')]"
    assert eval(repr(total), vars(skipway))(12) == total(12)
    assert ((every(6) + every(4)) + (every(3) + more))(12) == every(6)(12) + every(4)(12) + every(3)(12) + more


def test_a_plain_function_is_a_pattern(x4):
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=lambda n: [Shortcut(0, n)])
    assert net.wiring == (Shortcut(0, 2),)
    assert torch.equal(net(x4), net[1](net[0](x4)) + x4)
    assert ends(every(2) + (lambda n: [Shortcut(0, n)]), 3) == [(0, 2), (0, 3)]


def test_a_generator_is_a_wiring_and_the_chain_can_be_copied(x4):
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=(Shortcut(i, i + 1) for i in range(2)))
    assert len(net.wiring) == 2
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x4), net(x4))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: every(0), "every\\(k\\) takes a positive whole number"),
        (lambda: sliding(-1), "sliding\\(k\\) takes"),
        (lambda: every(2.0), "takes a positive whole number"),
        (lambda: Chain(Dense(4, 4), wiring=every(5)), "every\\(5\\).*makes no shortcut over a chain of 1 layer"),
        (lambda: Chain(Dense(4, 4), wiring="every"), "write a pattern: every\\(...\\)"),
        (lambda: Chain(Dense(4, 4), wiring=Shortcut(0, 1)), "write a list"),
        (lambda: Chain(Dense(4, 4), wiring=[(0, 1)]), "a wiring holds Shortcut"),
        (lambda: Chain(Dense(4, 4), wiring=3), "wiring= takes a pattern"),
        (lambda: Chain(Dense(4, 4), wiring=every), "every\\("),
        (lambda: every(1, merge="ad"), "did you mean 'add'"),
        (lambda: every(1, mrge="add"), "mrge.*merge"),
        (lambda: Skip(Dense(4, 4), mrge="add"), "mrge.*merge"),
        (lambda: Chain(Dense(4, 4), wirng=every(1)), "wirng.*wiring"),
        (lambda: every(1) + 3, "a wiring adds to patterns and lists"),
    ],
)
def test_wrong_wirings_say_what_is_right(make, what):
    with pytest.raises(ChainError, match=f"(?s){what}"):
        make()


def test_equal_shortcuts_from_two_patterns_are_told():
    with pytest.raises(ChainError, match=r"(?s)'0->1'.*another shortcut of this name.*name="):
        Chain(Dense(4, 4), wiring=every(1) + every(1))


class Scale:
    def __init__(self) -> None:
        self.by = nn.Parameter(torch.ones(4))

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.by


@pytest.mark.parametrize("stateful", [lambda: nn.Linear(4, 4), Scale], ids=["module", "callable"])
def test_a_pattern_does_not_share_weights_by_accident(stateful):
    with pytest.raises(ChainError, match=r"share the(ir)? weights"):
        Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=stateful()))


def test_a_pattern_shares_weights_on_purpose(x4):
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=tie(nn.Linear(4, 4))))
    assert len(list(net.parameters())) == 6
    net(x4).sum().backward()


# -- dense concatenation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_dense_cat_is_densenet(n):
    growth, width = 3, 4
    net = Chain(*[Dense(..., growth, torch.tanh) for _ in range(n)], input=width, wiring=dense(merge="cat")).double()
    assert [layer.in_features for layer in net] == [width + i * growth for i in range(n)]
    assert net.plan.output.shape == (width + n * growth,)
    x = torch.randn(5, width, dtype=torch.float64)
    made = [x]
    for i, layer in enumerate(net):
        got = net.features(x, at=[i])[i]
        # every value made so far, each once, in some order of blocks
        assert sorted(got[0].tolist()) == sorted(torch.cat(made, -1)[0].tolist())
        made.append(layer(got))
    assert sorted(net(x)[0].tolist()) == sorted(torch.cat(made, -1)[0].tolist())


def test_log2_cat_reads_each_earlier_layer_once():
    net = Chain(*[Dense(..., 3) for _ in range(8)], input=4, wiring=log2(merge="cat"))
    x = torch.randn(2, 4)
    made = [x]
    for b, layer in enumerate(net, start=1):
        got = net.features(x, at=[b - 1])[b - 1]
        read = [made[b - d] for d in (1, 2, 4, 8) if d <= b]
        assert sorted(got[0].tolist()) == sorted(torch.cat(read, -1)[0].tolist())
        made.append(layer(got))


def test_lang_and_witbrock_1988():
    widths = [5, 5, 5, 1]
    # every layer reads the input and all earlier layers; the last value is the answer alone
    wiring = [s for s in dense(merge="cat")(len(widths)) if s.end != len(widths)]
    net = Chain(*[Dense(..., w, torch.sigmoid) for w in widths], input=2, wiring=wiring)
    plain = Chain(*[Dense(..., w, torch.sigmoid) for w in widths], input=2)
    assert sum(p.numel() for p in net.parameters()) == 138
    assert sum(p.numel() for p in plain.parameters()) == 81
    assert sum(p.numel() for p in net.plain().parameters()) == 81
    assert net(torch.randn(3, 2)).shape == (3, 1)


def test_from_input_cat_is_deepsdf():
    net = Chain(
        Dense(..., 6, relu), Dense(..., 6, relu), Dense(..., 1), input=3, wiring=from_input(merge="cat", output=False)
    )
    assert [layer.in_features for layer in net] == [3, 9, 9]
    assert net(torch.randn(2, 3)).shape == (2, 1)
