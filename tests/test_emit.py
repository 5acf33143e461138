import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import Chain, Dense, Learned, Project, Shortcut, Skip, dense, every, relu, unet


def run(net, x):
    """Execute ``net.code`` as a page of its own would."""
    space = {"torch": torch, "F": F, "relu": relu}
    exec(net.code, space)
    return space["forward"](net, x)


@pytest.mark.parametrize(
    "net",
    [
        lambda: Chain(Dense(4, 4, relu), Dense(4, 2)),
        lambda: Chain(Dense(4, 4), torch.relu, F.gelu, Dense(4, 4), wiring=every(1)),
        lambda: Chain(*[Dense(4, 4) for _ in range(6)], wiring=unet(merge="mean", scale=0.5, path_scale=-2.0)),
        lambda: Chain(*[Dense(..., 3) for _ in range(4)], input=4, wiring=dense(merge="cat")),
        lambda: Chain(
            a=Dense(4, 4),
            b=Chain(c=Dense(4, 4)),
            wiring=[Shortcut("a", "b.c", path=Project(always=True), scale=Learned(1.0))],
        ),
        lambda: Chain(Dense(4, 4), wiring=[Shortcut(0, 1, merge="gate", act=torch.tanh, drop=0.0)]),
    ],
)
def test_the_code_shown_is_what_runs(net, x4):
    net = net()
    assert torch.equal(run(net, x4), net(x4))


def test_a_plain_chain_is_a_straight_line():
    lines = [line.strip() for line in Chain(stem=Dense(4, 4), head=Dense(4, 2)).code.splitlines()]
    assert [line.replace("'", '"') for line in lines] == [
        "def forward(self, x):",
        "layer = self._modules",
        'x = layer["stem"](x)',
        'x = layer["head"](x)',
        "return x",
    ]


def test_a_tap_is_freed_after_its_last_reader(x4):
    net = Chain(
        a=Dense(4, 4), b=Dense(4, 4), c=Dense(4, 4), d=Dense(4, 4), wiring=[Shortcut("a", "b"), Shortcut("a", "c")]
    )
    lines = [line.strip() for line in net.code.splitlines()]
    freed = next(i for i, line in enumerate(lines) if line.startswith("del "))
    last_read = max(i for i, line in enumerate(lines) if "+ a" in line)
    assert freed == last_read + 1


def test_a_tap_is_really_freed_while_the_forward_goes_on():
    import weakref

    held, alive = [], []

    class Look(nn.Module):
        def forward(self, x):
            if not x.shape[0]:
                return x
            alive.append([r() is not None for r in held])
            held.append(weakref.ref(x))
            return x + 1

    net = Chain(Look(), Look(), Look(), Look(), wiring=[Shortcut(1, 2)], input=(4,))
    held.clear()
    alive.clear()
    with torch.no_grad():
        net(torch.ones(2, 4))
    # each layer sees only its own input alive (and value 1 until it is merged); our caller holds the input of the chain
    assert alive == [[], [True], [True, False], [True, False, False]]


def test_concatenations_are_joined_in_one_call():
    net = Chain(*[Dense(..., 3) for _ in range(5)], input=4, wiring=dense(merge="cat"))
    assert net.code.count("torch.cat") == 5


@pytest.mark.parametrize(
    "names",
    [
        ("a b", "a_b", "a-b", "a.b".replace(".", "_")[:1]),
        ('q"uote', "back\\slash", "new\nline", "tab\t"),
        ("x", "x0", "x1", "x2"),
        ("layer", "edge", "torch", "F"),
        ("a", "a_branch", "a_", "a__"),
        ("lambda", "class", "def", "del"),
        ("ü", "名", "1st", "{}"),
        ("a(", "b)", "c +", "d * "),
    ],
)
def test_any_name_makes_the_same_numbers(names, x4):
    layers = [Dense(4, 4) for _ in names]
    wiring = [
        Shortcut(0, 1),
        Shortcut(1, 3, tap="branch", path=Project(always=True)),
        Shortcut(1, 2, scale=0.5, merge="mul", name='n"\\1'),
        Shortcut(2, 4, scale=Learned(0.5)),
        Shortcut(1, 4, path=torch.sin),
    ]
    plain, named = Chain(*layers, wiring=wiring), Chain(dict(zip(names, layers, strict=True)), wiring=wiring)
    named.load_state_dict(dict(zip(named.state_dict(), plain.state_dict().values(), strict=True)))
    assert torch.equal(named(x4), plain(x4))


@pytest.mark.parametrize(
    ("outer", "inner", "other"),
    [("a", "b", "a_b"), ("enc", "c", "enc_layer"), ("enc", "c", "enc_edge"), ("a", "branch", "a_branch")],
)
def test_nested_names_do_not_collide(outer, inner, other, x4):
    first, second, third = Dense(4, 4), Dense(4, 4), Dense(4, 4)
    net = Chain(
        **{outer: Chain({inner: Chain(c=first, d=second)}), other: Chain(c=third)},
        wiring=[
            Shortcut(f"{outer}.{inner}.c", f"{other}.c", path=Project(always=True)),
            Shortcut(f"{outer}", f"{other}"),
        ],
    )
    p = net.shortcuts[f"{outer}.{inner}.c->{other}.c"].path
    c = first(x4)
    d = second(c)
    assert torch.equal(net(x4), third(d) + p(c) + d)


@pytest.mark.parametrize("name", ["b", "x1", "x0", "shortcut", "layer", "edge", "same", "torch", "into_b", "a_branch"])
def test_functions_do_not_collide_with_values(name, x4):
    def double(x):
        return 2 * x

    double.__name__ = name
    net = Chain(
        Dense(4, 4),
        double,
        b=Dense(4, 4),
        c=double,
        a=Dense(4, 4),
        wiring=[Shortcut(1, 2, path=double), Shortcut("b", "c"), Shortcut(0, 1), Shortcut("c", "a")],
    )
    one = net[0](x4) + x4
    two = 2 * one + 2 * one
    b = net["b"](two)
    c = 2 * b + b
    assert torch.allclose(net(x4), net["a"](c) + c, atol=1e-6)


def test_equal_functions_of_one_name_are_kept_apart(x4):
    def times(by):
        def f(x):
            return x * by

        return f

    net = Chain(times(2.0), times(3.0), times(2.0), wiring=[Shortcut(0, 3, path=times(5.0))])
    assert torch.equal(net(x4), x4 * 12 + x4 * 5)


def test_a_traceback_shows_the_generated_line(x4):
    import traceback

    class Fails(nn.Module):
        def forward(self, x):
            if x.shape[0] == 3 and not x.is_meta:
                raise KeyError("mine")
            return x

    with pytest.raises(Exception, match="mine") as caught:
        Chain(Dense(4, 4), Fails())(x4)
    text = "".join(traceback.format_exception(caught.value))
    assert "<skipway forward" in text


def test_deep_nesting_of_skips(x4):
    net = Dense(4, 4)
    for _ in range(12):
        net = Skip(net)
    inner = net
    while isinstance(inner, Chain):
        inner = inner[0]
    out = inner(x4)
    for _ in range(12):
        out = out + x4
    assert torch.allclose(net(x4), out, atol=1e-5)
