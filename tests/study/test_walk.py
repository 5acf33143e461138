import pytest
import torch
from torch import nn

from skipway import Chain, Dense, Parallel, Skip, every, zoo
from skipway.study import paths
from skipway.study.walk import Walk

NETS = {
    "lang_witbrock": {},
    "highway": {"layers": 10},
    "rezero_mlp": {"layers": 6},
    "tabular_resnet": {},
    "deep_cross": {},
    "cifar_resnet20": {},
    "preact_resnet": {"depth": 20},
}


@pytest.mark.parametrize("name", NETS)
def test_a_walk_computes_what_nets_of_the_zoo_compute(name):
    net = zoo.make(name, **NETS[name]).eval()
    shape = net._form.shape or net.implied_input().shape
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(Walk(net)(x), net(x))


def test_every_value_and_every_meeting_is_seen_once():
    net = Chain(Dense(4, 4), Skip(Dense(4, 4), nn.ReLU(inplace=True)), Dense(4, 4), wiring=every(1))
    seen, met = [], []

    def see(node, value):
        seen.append((node.name, value.clone(), value))
        return value

    def meet(node, edges, branch, brought):
        met.append((node.name, len(edges), len(brought)))
        return branch, brought

    x = torch.randn(3, 4)
    with torch.no_grad():
        out = Walk(net)(x, meet=meet, see=see)
        assert torch.equal(out, net(x))
    assert [name for name, _, _ in seen] == ["input", "0", "1.0", "1.1", "1", "2"]
    assert met == [("0", 1, 1), ("1.1", 1, 1), ("1", 1, 1), ("2", 1, 1)]
    # a layer that works in place does not reach what was seen
    assert all(torch.equal(then, now) for _, then, now in seen)
    with torch.no_grad():
        features = net.features(x, at=["0", "1", "2"])
    assert all(torch.equal(features[name], value) for name, value, _ in seen if name in features)


@pytest.mark.parametrize(
    ("net", "total"),
    [
        # blocks of three columns join five paths (1605.07648), one after the other
        (lambda: zoo.make("fractalnet"), 5**5),
        (lambda: zoo.make("unet"), 5),
        (lambda: zoo.make("cascade"), 2**12),
        (lambda: zoo.make("lang_witbrock"), 2**3),
        (lambda: Chain(Parallel(Dense(2, 2), Dense(2, 2)), Skip(Dense(2, 2))), 4),
    ],
    ids=["fractalnet", "unet", "cascade", "lang_witbrock", "parallel"],
)
def test_paths_of_known_nets(net, total):
    assert paths(net()).total == total
