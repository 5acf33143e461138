"""Nets by name: what may be said, and what a name has said already."""

from __future__ import annotations

import pytest

import skipway
from skipway import Chain, ChainError
from skipway.zoo import make, names


def test_the_zoo_is_loaded_when_first_used():
    assert skipway.zoo.make is make
    assert "zoo" in skipway.__all__


def test_names_are_as_they_are_typed():
    assert len(set(names())) == len(names())
    assert all(name == name.lower() and name.isidentifier() for name in names())


def test_options_reach_the_net():
    net = make("cifar_resnet20", num_classes=7, shortcut="B")
    assert isinstance(net, Chain)
    assert net["head"].out_features == 7
    assert net["stage2"][0].wiring[0].path.norm is skipway.BatchNorm


def test_the_same_net_as_the_function_makes():
    made = make("cifar_densenet", depth=10, growth=4)
    assert repr(made) == repr(skipway.zoo.cifar_densenet(10, 4))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnt18", {}, "no net of the zoo is named 'resnt18': did you mean 'resnet18'?"),
        ("xyz", {}, "there is 'resnet18', 'resnet34'"),
        ("resnet18", {"zero_int": True}, "'resnet18' has no option 'zero_int': did you mean 'zero_init'?"),
        ("lang_witbrock", {"width": 3}, "has no option 'width'"),
        ("resnet18", {"depth": 34}, "'resnet18' says depth=18, and not depth=34: take 'resnet34' or"),
        ("cifar_resnet20", {"depth": 21}, "take 'cifar_resnet', which leaves that open"),
        ("cifar_resnet", {"depth": 21}, r"depth= is 6n \+ 2 .*not 21: take 20 or 26"),
        ("cifar_densenet", {"depth": 41}, r"3n \+ 4 without bottlenecks"),
        ("resnet34", {"stride_on": "1x1"}, "two 3x3 convolutions"),
        ("resnet34", {"shortcut": "E"}, '"A", "B", "C" or "D"'),
    ],
)
def test_what_cannot_be(name, options, words):
    with pytest.raises(ChainError, match=words):
        make(name, **options)


def test_what_the_name_says_may_be_said_again():
    assert repr(make("cifar_resnet20", depth=20)) == repr(make("cifar_resnet20"))
