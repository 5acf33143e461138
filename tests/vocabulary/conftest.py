"""A small net for every word of the vocabulary, over vectors and over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from skipway import (
    Anneal,
    BatchNorm,
    Cat,
    Chain,
    Conv,
    Crop,
    Dense,
    Detach,
    Drop,
    DualPath,
    Gate,
    Householder,
    Join,
    LayerNorm,
    Learned,
    Lerp,
    LowRank,
    Orthogonal,
    Pad,
    Parallel,
    Project,
    Ramp,
    Resize,
    Shake,
    ShakeDrop,
    Shortcut,
    Skip,
    Slice,
    SqueezeExcite,
    Swapout,
    Warmup,
    Weighted,
    cross,
    dense,
    every,
    from_input,
    relu,
    tanh,
)

VECTOR, IMAGE = (6,), (4, 6, 6)


@dataclass(frozen=True)
class Case:
    """A net, its input, and what is known of it."""

    make: Callable[[], Chain]
    shape: tuple[int, ...]
    #: with a branch of zeros it passes on its input, in eval mode
    identity: bool = False
    #: draws random numbers in training
    random: bool = False
    #: parameters without a gradient at the start, since a gain begins at zero
    quiet: tuple[str, ...] = ()
    #: what ``repr`` needs besides skipway's own names
    names: dict[str, Any] = field(default_factory=dict)


def vector(identity: bool = False, random: bool = False, quiet: tuple[str, ...] = (), **options: Any) -> Case:
    return Case(lambda: Skip(Dense(6, 6, tanh), Dense(6, 6), **options), VECTOR, identity, random, quiet)


def image(
    out: int = 4,
    stride: int = 1,
    identity: bool = False,
    random: bool = False,
    quiet: tuple[str, ...] = (),
    **options: Any,
) -> Case:
    def make() -> Chain:
        return Skip(Conv(4, 5, 3, tanh, padding=1), Conv(5, out, 3, stride=stride, padding=1), **options)

    return Case(make, IMAGE, identity, random, quiet)


def wired(wiring: Any, layers: int = 4, quiet: tuple[str, ...] = (), random: bool = False) -> Case:
    return Case(lambda: Chain(*[Dense(6, 6, tanh) for _ in range(layers)], wiring=wiring), VECTOR, False, random, quiet)


def parallel(merge: Any, random: bool = False, count: int = 3) -> Case:
    def make() -> Chain:
        return Chain(Parallel(*[Conv(4, 4, 3, tanh, padding=1) for _ in range(count)], merge=merge))

    return Case(make, IMAGE, False, random)


CASES: dict[str, Case] = {
    # merges
    "add": vector(identity=True),
    "sub": vector(identity=True, merge="sub"),
    "mul": vector(merge="mul"),
    "mean": vector(merge="mean"),
    "max": vector(merge="max"),
    "cat": vector(merge="cat"),
    "cat, shortcut first": image(merge=Cat(first="shortcut")),
    "gate": vector(merge="gate"),
    "gate of images": image(merge=Gate(-1.0)),
    "free gates": vector(merge=Gate(-1.0, free=True)),
    "gate on the shortcut": image(merge=Gate(-1.0, on="shortcut")),
    "gate on the branch": vector(merge=Gate(on="branch"), identity=True),
    "dual path": image(out=3, merge=DualPath(add=2)),
    "weighted": vector(merge="weighted"),
    "weighted sum": vector(merge=Weighted(init="sum"), identity=True),
    "softmax weights": vector(merge=Weighted("softmax")),
    "positive weights": image(merge=Weighted("positive")),
    "denseformer": wired(dense(merge=Weighted())),
    "weighted, last ones only": wired([Shortcut(k, 3, merge=Weighted("softmax", init="branch")) for k in (0, 1, 2)]),
    "lerp": vector(merge=Lerp()),
    "lerp on the sphere": image(merge=Lerp(Learned(0.05, per="channel"), norm=True)),
    "lerp by a number": vector(merge=Lerp(0.25)),
    "orthogonal": image(merge=Orthogonal(), identity=True),
    "swapout": vector(merge=Swapout(0.5, 0.2), random=True),
    "cross": wired(cross()),
    # paths
    "project": image(out=8, stride=2, path="project"),
    "project, always": image(path=Project(always=True, norm=BatchNorm)),
    "project after a mean": image(out=8, stride=2, path=Project(norm=BatchNorm, down="mean")),
    "project after a blur": image(out=8, stride=2, path=Project(down="blur")),
    "pad": image(out=8, stride=2, path="pad"),
    "pad after a mean": image(out=8, stride=2, path=Pad(down="mean")),
    "pad after a blur": image(out=6, stride=2, path=Pad(down="blur")),
    "crop": Case(lambda: Skip(Conv(4, 4, 3, tanh), path="crop", input=IMAGE), IMAGE, True),
    "crop and project": Case(lambda: Skip(Conv(4, 3, 3, tanh), path=[Crop(), Project()], input=IMAGE), IMAGE),
    "resize": image(stride=2, path="resize"),
    "resize by interpolation": Case(
        lambda: Skip(Conv(4, 4, 3, tanh, padding=1), nn.Upsample(scale_factor=2), path=Resize("linear")), IMAGE
    ),
    "slice": Case(lambda: Skip(Dense(6, 4, tanh), path=Slice(1, 5)), VECTOR),
    "slice of channels, projected": image(path=[Slice(0, 2), Project()]),
    "low rank": vector(path=LowRank(2), quiet=("path.0.weight",), identity=True),
    "low rank of images, alone": image(out=7, path=LowRank(2, identity=False)),
    "householder": vector(path=Householder()),
    "householder, learned": image(path=Householder(Learned(0.5))),
    "householder of the value": vector(path=Householder(Learned(1.5), dynamic=True)),
    "reflection": image(path=Householder(2.0)),
    "detach": vector(path=Detach(), identity=True),
    "a module": vector(path=nn.Tanh()),
    "modules in a row": vector(path=[nn.Tanh(), Dense(..., 6)]),
    # gains
    "constant": vector(scale=0.5, path_scale=2.0),
    "learned": vector(scale=Learned(0.5), path_scale=Learned(1.0), identity=True),
    "rezero": vector(scale=Learned(0.0), identity=True, quiet=("0.", "1.")),
    "layer scale": image(scale=Learned(1e-6, per="channel"), identity=True),
    "scale of the path": image(path_scale=Learned(1.0, per="channel"), identity=True),
    "squeeze and excite": image(scale=SqueezeExcite(2), identity=True),
    "squeeze and excite of vectors": vector(scale=SqueezeExcite(3), identity=True),
    "a module as gain": vector(scale=nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())),
    "warm-up": vector(scale=Warmup(4), identity=True),
    "annealing": vector(path_scale=Anneal(1.0, 0.5, steps=4, shape="cosine")),
    "over depth": wired(every(1, scale=lambda depth, of: depth / of)),
    "a ramp of drops": wired(every(1, drop=Drop(Ramp(0.0, 0.5))), random=True),
    "stochastic depth": vector(drop=Drop(0.3, mode="batch", law="test-scale"), random=True, identity=True),
    "drop path": image(drop=0.3, random=True, identity=True),
    "dropped elements": vector(drop=Drop(0.3, mode="element"), random=True, identity=True),
    "scheduled drop path": vector(drop=Drop(0.3, warmup=5), random=True, identity=True),
    "shake drop": image(drop=ShakeDrop(0.5), random=True, identity=True),
    "shake-shake": parallel(Shake(), random=True, count=2),
    "shake of three": parallel(Shake(mode="batch"), random=True),
    "fractal join": parallel(Join(0.3), random=True),
    "weighted branches": parallel(Weighted("softmax")),
    # taps
    "branch": wired([Shortcut(0, 1), Shortcut(1, 2, tap="branch")]),
    "the input": wired(from_input()),
    "nested": Case(
        lambda: Chain(
            enc=Chain(a=Dense(6, 6, tanh), b=Dense(6, 6, tanh)), dec=Dense(6, 6), wiring=[Shortcut("enc.a", "dec")]
        ),
        VECTOR,
    ),
    # order
    "relu after the sum": vector(act=relu),
    "norm after the sum": image(act=BatchNorm(4)),
    "norm and relu after the sum": image(act=nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())),
    "pre-activation": Case(lambda: Skip(BatchNorm(4), relu, Conv(4, 4, 3, padding=1)), IMAGE),
    "sandwich": Case(lambda: Skip(LayerNorm(6), Dense(6, 6, tanh), LayerNorm(6)), VECTOR),
}


WHICH = {
    "identity": lambda case: case.identity,
    "image": lambda case: case.shape == IMAGE,
    "random": lambda case: case.random,
    # shortcuts that hide the value from the gradient are there to have another one than finite differences
    "differentiable": lambda case: case is not CASES["detach"],
    "printable": lambda case: case is not CASES["over depth"],  # a lambda has no code to print
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs for every case, or for those that its mark ``which`` names."""
    if "case" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("which")
    keep = WHICH[mark.args[0]] if mark else lambda case: True
    metafunc.parametrize("case", [pytest.param(c, id=name) for name, c in CASES.items() if keep(c)])


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


@pytest.fixture
def net(case: Case) -> Chain:
    return case.make()


@pytest.fixture
def x(case: Case) -> torch.Tensor:
    return torch.randn(3, *case.shape)
