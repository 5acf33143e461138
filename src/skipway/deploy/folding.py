"""``fold``: a plain, smaller chain that computes the same in eval mode."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.value import Form

from .kernels import Affine
from .layers import hooked
from .rebuild import Rebuilder
from .refusals import explain
from .report import Difference, Notes, Report, Size
from .row import Step, is_chain, row_of
from .rules import reduce

#: a relative difference that rounding does not explain, by precision; other precisions are not judged
WRONG = {torch.float64: 1e-8, torch.float32: 1e-2}


class Folded(Chain):
    """A chain that came out of :func:`fold`: an ordinary one, with a ``report`` of what was done to it."""

    report: Report


def fold(net: Chain, example: Tensor | None = None, *, check: bool = True, clamps: bool = True) -> Folded:
    """A plain, smaller chain that computes the same in eval mode.

    What is linear and stands together becomes one layer:

    - a norm, and the convolution or dense layer before it or after it (1502.03167);
    - branches side by side that are added up: a 3x3 and a 1x1 convolution, a norm alone, each with its norm (RepVGG,
      2101.03697; MobileOne, 2206.04040);
    - a shortcut around linear layers, and those layers;
    - scales (ReZero, LayerScale, constants), the test law of random drops, and the linear layer that they scale;
    - two linear layers in a row, where their product is no larger.

    Dropout and what else does nothing in eval mode goes. Norm and relu before a 1x1 convolution become a clamp and that
    convolution; a mean over windows goes before the 1x1 convolution that it followed (DenseNet's transitions).
    Activations join the layer before them. Everything is computed in float64 and rounded once.

    Parameters
    ----------
    net:
        a closed chain in eval mode. It stays as it is, and shares nothing with the result.
    example:
        an input to compare the two on; by default two rows of random numbers of the shape the net was built for.
    check:
        whether to compare them, in float64 and in the net's own precision. It takes four forwards.
    clamps:
        whether norm and relu before a 1x1 convolution become a clamp. One pass for two in PyTorch; engines that fuse
        the two by themselves may run them as fast as they are.

    Returns
    -------
    Folded
        the chain; ``net.report`` lists each fold, each refusal with its reason, and the largest difference. What is not
        known to be exact is left as it was.

    Raises
    ------
    ChainError
        for a net in training mode, and where the outputs of the two differ by more than rounding: a layer then says
        something else than it does, or draws random numbers in eval mode.
    OpenChainError
        for a chain whose widths are not known yet.

    >>> from skipway import BatchNorm, Chain, Conv, Skip, relu
    >>> net = Chain(Skip(Conv(8, 8, 3, padding=1), BatchNorm(8)), relu, input=(8, 6, 6))
    >>> fold(net.eval())
    Chain(Conv(8, 8, 3, relu, padding=1), input=(8, 6, 6))
    """
    _ready(net)
    own = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    notes = Notes(own.dtype, clamps)
    form = net._form if example is None or net._form.sizes else _form_of(example)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # layers are made, and draw weights to no end
        row = row_of(net, form.value, notes)
        before = _size(row, net)
        row = reduce(row, notes)
        explain(row, notes)
        folded = Rebuilder(own.dtype, own.device).chain(row, Folded, form)
        exact = _in_float64(row, form) if check and own.dtype != torch.float64 else folded
    if any(hooked(module) for module in net.modules() if is_chain(module)):
        notes.refuse("hooks are left behind", "the chain", "a folded chain has other layers to call them on")
    differences: tuple[Difference, ...] = ()
    shape: tuple[int, ...] = ()
    if check:
        x = example if example is not None else _random(form, own)
        differences = _differences(net, folded, exact, x)
        shape = () if x is None else tuple(x.shape)
    folded.__dict__["report"] = Report(
        tuple(notes.folds), tuple(notes.refusals), before, _size(row, folded), differences, shape
    )
    return folded


def _ready(net: Any) -> None:
    """Raise where a net cannot be folded at all."""
    if not isinstance(net, Chain):
        fix = ": write Chain(*layers)" if isinstance(net, nn.Sequential) else ""
        raise ChainError(f"fold takes a Chain, since its structure is known, not a {type(net).__name__}{fix}")
    net._need_closed("folded form")
    if not is_chain(net):
        raise ChainError(
            f"{type(net).__name__} has a forward of its own, so what its layers compute is not all it does"
        )
    training = [name for name, module in net.named_modules() if module.training]
    if training:
        which = "this chain" if training[0] == "" else f"{training[0]!r} in this chain"
        raise ChainError(
            f"{which} ({net.source}) is in training mode, where norms look at the batch and dropout draws: folding "
            f"holds for eval mode; say net.eval() first"
        )


def _form_of(example: Tensor) -> Form:
    return Form((tuple(example.shape[1:]),), None, example.dtype)


def _size(row: list[Step], net: Chain) -> Size:
    layers, shortcuts = _count(row)
    return Size(layers, shortcuts, sum(p.numel() for p in net.parameters()))


def _count(row: list[Step]) -> tuple[int, int]:
    """Layers and shortcuts of a row, with those of its branches and paths."""
    layers, shortcuts = 0, 0
    for step in row[1:]:
        nothing = step.layer is None and (step.linear is None or isinstance(step.linear, Affine))
        layers += step.rows is None and not nothing
        inner = [*(step.rows or ()), *[join.row for join in step.ends]]
        for more, joins in map(_count, inner):
            layers, shortcuts = layers + more, shortcuts + joins
        shortcuts += len(step.ends)
    return layers, shortcuts


# -- how far apart -----------------------------------------------------------------------------------------------------


def _in_float64(row: list[Step], form: Form) -> Chain | str:
    """The folded chain before it was rounded; or why there is none."""
    try:
        return Rebuilder(torch.float64, torch.device("cpu"), cast=True).chain(row, Folded, form)
    except Exception as error:  # layers of users may know one precision only
        return _told(error)


def _told(error: Exception) -> str:
    return f"not computed, since a layer fails in it: {' '.join(str(error).split())[:120]}"


def _random(form: Form, own: Tensor) -> Tensor | None:
    """Two rows of random numbers, drawn without touching those of anybody else."""
    if not form.sizes or (form.dtype is not None and not form.dtype.is_floating_point):
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *form.sizes[0], generator=generator).to(own.device, own.dtype)


def _differences(net: Chain, folded: Chain, exact: Chain | str, x: Tensor | None) -> tuple[Difference, ...]:
    precision = str(next((p.dtype for p in net.parameters()), torch.float32)).removeprefix("torch.")
    if x is None:
        why = "not computed: the shape of the input is not known, or it is no float; give fold(net, example=...)"
        return (Difference(precision, float("nan"), float("nan"), why),)
    found = []
    with torch.no_grad():
        if exact is not folded:
            found.append(_in_double(net, exact, x))
        found.append(_compared(net(x), folded(x), precision))
    for difference in found:
        if difference.relative > WRONG.get(getattr(torch, difference.precision), float("inf")):
            raise ChainError(
                f"the folded chain differs from the one it came from ({net.source}) by {difference}, in "
                f"{difference.precision}: a layer draws random numbers in eval mode, or does not compute what it says"
            )
    return tuple(found)


def _in_double(net: Chain, exact: Chain | str, x: Tensor) -> Difference:
    if isinstance(exact, Chain):
        try:
            double = copy.deepcopy(net).to("cpu", torch.float64)
            x = x.to("cpu", torch.float64) if x.is_floating_point() else x.cpu()
            return _compared(double(x), exact(x), "float64")
        except Exception as error:  # as above
            exact = _told(error)
    return Difference("float64", float("nan"), float("nan"), exact)


def _compared(ours: Tensor, theirs: Tensor, precision: str) -> Difference:
    ours, theirs = ours.to(torch.float64), theirs.to(torch.float64)
    apart, large = float((ours - theirs).abs().max()), float(ours.abs().max())
    return Difference(precision, apart, apart / large if large else apart)
