import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

import skipway
from skipway import Cat, Chain, ChainError, Dense, Drop, Gate, Learned, Pad, Project, Shortcut, relu
from skipway.merges import Add, as_merge
from skipway.paths import as_path


def test_a_shortcut_is_frozen_data():
    s = Shortcut("stem", "b", merge="cat")
    with pytest.raises(FrozenInstanceError):
        s.start = "a"
    assert s == Shortcut("stem", "b", merge="cat")
    assert s != Shortcut("stem", "b")
    assert hash(s) == hash(Shortcut("stem", "b", merge="cat"))


def test_where_it_was_written_is_no_part_of_equality():
    one = Shortcut(0, 1)
    two = Shortcut(0, 1)
    assert one.source != two.source
    assert one == two
    assert one.source.startswith("test_shortcut.py:")


def test_defaults_do_not_matter_to_equality():
    assert Shortcut(0, 2) == Shortcut(0, 2, merge="add", path="identity", drop=0.0)


SHORTCUTS = [
    Shortcut(0, 2),
    Shortcut("stem", "output", merge="cat", tap="branch"),
    Shortcut(0, -1, merge=Cat(axis=1, first="shortcut")),
    Shortcut(0, 1, merge=Gate(bias=-1.0), path=Project(always=True, bias=True)),
    Shortcut(0, 1, path=Pad(), act=relu, name="around"),
    Shortcut(0, 1, scale=0.5, path_scale=Learned(1.0, per="channel"), drop=Drop(0.5, mode="batch")),
    Shortcut("enc.down1", "dec.up1", drop=0.1, scale=Learned()),
    Shortcut(0, 1, path=nn.Linear(4, 4, bias=False), act=nn.LeakyReLU(0.2)),
    Shortcut(0, 1, merge=torch.maximum, act=torch.sin),
    Shortcut(0, 1, path=Project(norm=nn.BatchNorm2d), merge=Add()),
    Shortcut(0, 1, act=torch.nn.functional.leaky_relu),
]


@pytest.mark.parametrize("s", SHORTCUTS, ids=repr)
def test_repr_is_python_that_makes_it_again(s):
    known = {**vars(skipway), "nn": nn, "torch": torch, "F": torch.nn.functional, "Add": Add}
    again = eval(repr(s), known)
    if isinstance(s.path, nn.Module):  # a fresh module with fresh weights
        assert repr(again) == repr(s)
        return
    # a word and the recipe it names are the same
    assert (as_merge(again.merge), as_path(again.path)) == (as_merge(s.merge), as_path(s.path))
    assert replace(again, merge=s.merge, path=s.path) == s


@pytest.mark.parametrize("s", SHORTCUTS, ids=repr)
def test_copies(s):
    assert repr(copy.deepcopy(s)) == repr(s)
    assert repr(pickle.loads(pickle.dumps(s))) == repr(s)


@pytest.mark.parametrize(
    ("s", "label", "key"),
    [
        (Shortcut(0, 2), "0->2", "0->2"),
        (Shortcut("enc.a", "dec.b"), "enc.a->dec.b", "enc/a->dec/b"),
        (Shortcut(0, 2, name="around"), "around", "around"),
    ],
)
def test_it_goes_by_its_name_or_its_ends(s, label, key):
    assert s.label == label
    assert s.key == key


@pytest.mark.parametrize("end", [None, 0.5, True, "", ("a",), nn.Identity()])
def test_ends_that_are_no_names_are_refused(end):
    with pytest.raises(ChainError, match=r"test_shortcut\.py:\d+\): the start is"):
        Shortcut(end, 1)
    with pytest.raises(ChainError, match=r"test_shortcut\.py:\d+\): the end is"):
        Shortcut(0, end)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"merge": "ad"}, "did you mean 'add'"),
        ({"path": "projct"}, "did you mean 'project'"),
        ({"act": "relu"}, "act must be callable, such as relu, not 'relu'"),
        ({"tap": "raw"}, '"state" or "branch", not \'raw\''),
        ({"name": "a.b"}, "a word without dots"),
        ({"name": 3}, "a word without dots"),
        ({"scale": "big"}, "finite number, Learned"),
    ],
)
def test_wrong_options_say_what_is_right_and_where(options, what):
    with pytest.raises(ChainError, match=rf"shortcut 0 -> 1 \(test_shortcut\.py:\d+\): .*{what}"):
        Shortcut(0, 1, **options)


def test_moved_keeps_everything_else():
    s = Shortcut(0, 2, merge="cat", scale=0.5, name="n")
    assert s.moved(1, 3) == Shortcut(1, 3, merge="cat", scale=0.5, name="n")
    assert s.moved(1, 3).source == s.source


# -- the names of values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 2), ("input", 2), ("input", "b"), (0, "b"), (-4, 2), (-4, -2), ("input", -2)],
)
def test_all_ways_to_name_a_value_mean_the_same(start, end, x4):
    layers = [Dense(4, 4, relu) for _ in range(3)]
    net = Chain(a=layers[0], b=layers[1], c=layers[2], wiring=[Shortcut(start, end)])
    assert torch.equal(net(x4), layers[2](layers[1](layers[0](x4)) + x4))


@pytest.mark.parametrize("end", [3, -1, "output", "c"])
def test_all_ways_to_name_the_last_value(end, x4):
    layers = [Dense(4, 4, relu) for _ in range(3)]
    net = Chain(a=layers[0], b=layers[1], c=layers[2], wiring=[Shortcut(1, end)])
    h = layers[0](x4)
    assert torch.equal(net(x4), layers[2](layers[1](h)) + h)


def test_a_number_as_a_word_names_the_layer_not_the_position(x4):
    # layer "1" puts out the value after two layers
    net = Chain(Dense(4, 4), Dense(4, 4), Dense(4, 4), wiring=[Shortcut("0", "1")])
    h = net[0](x4)
    assert torch.equal(net(x4), net[2](net[1](h) + h))


def test_several_shortcuts_into_one_value_merge_in_wiring_order(x4):
    layers = [Dense(4, 4), Dense(4, 4)]
    first, second = Shortcut(0, 2, merge=torch.sub), Shortcut(1, 2, merge="mul")
    h = layers[0](x4)
    out = layers[1](h)
    assert torch.equal(Chain(*layers, wiring=[first, second])(x4), (out - x4) * h)
    assert torch.equal(Chain(*layers, wiring=[second, first])(x4), (out * h) - x4)


def test_tap_branch_takes_the_value_before_its_own_merges(x4):
    layers = [Dense(4, 4), Dense(4, 4)]
    around = Shortcut(0, 1, act=torch.tanh)
    a = layers[0](x4)
    state = torch.tanh(a + x4)
    tapped = Chain(*layers, wiring=[around, Shortcut(1, 2, tap="branch")])
    plain = Chain(*layers, wiring=[around, Shortcut(1, 2)])
    assert torch.equal(tapped(x4), layers[1](state) + a)
    assert torch.equal(plain(x4), layers[1](state) + state)


def test_both_taps_of_one_value(x4):
    layers = [Dense(4, 4), Dense(4, 4), Dense(4, 4)]
    wiring = [Shortcut(0, 1), Shortcut(1, 3, tap="branch"), Shortcut(1, 2)]
    a = layers[0](x4)
    state = a + x4
    assert torch.equal(Chain(*layers, wiring=wiring)(x4), layers[2](layers[1](state) + state) + a)
