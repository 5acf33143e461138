"""What papers and other libraries say of the nets, and whether the nets here agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from skipway import Chain

from .cost import Count, count
from .registry import entry, make


@dataclass(frozen=True)
class Figure:
    """A number that somebody published of a net.

    Attributes
    ----------
    what:
        one of the :data:`QUANTITIES`.
    value:
        the number.
    source:
        who says so.
    options:
        of the net, besides what its name says.
    unit:
        the last place that is printed: a number is met if the net is within it. 0 for exact numbers.
    """

    what: str
    value: float
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    unit: float = 0.0

    def met(self, actual: float) -> bool:
        return actual == self.value if not self.unit else abs(actual - self.value) < self.unit


def _norms(net: Chain) -> int:
    norms = (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return sum(p.numel() for m in norms for p in m.parameters())


#: what can be counted of a net
QUANTITIES: dict[str, Callable[[Chain, Count], int]] = {
    "parameters": lambda net, found: found.parameters,
    "MACs": lambda net, found: found.macs,
    "depth": lambda net, found: found.depth,
    "projections": lambda net, found: found.projections,
    "parameters of the plain twin": lambda net, found: count(net.plain()).parameters,
    "parameters more than the plain twin": lambda net, found: found.parameters - count(net.plain()).parameters,
    "parameters without norms": lambda net, found: found.parameters - _norms(net),
}

_LIBRARIES = "torchvision 0.28, timm 1.0.31"
_COUNTED = "an independent count from the description"
_RESNET, _CIFAR, _PREACT = "1512.03385, table 1", "1512.03385, section 4.2", "1603.05027"
_WRN, _DENSE = "1605.07146", "1608.06993"


def _exact(parameters: int, source: str, **options: Any) -> Figure:
    return Figure("parameters", parameters, source, options)


def _resnet(depth: int, parameters: int, macs: int, printed: float) -> list[Figure]:
    own = {"stride_on": "1x1"} if depth >= 50 else {}
    return [
        _exact(parameters, _LIBRARIES),
        Figure("MACs", macs, _COUNTED),
        Figure("MACs", printed, _RESNET, own, unit=1e8),
        Figure("depth", depth, _RESNET),
        Figure("projections", 4 if depth >= 50 else 3, "1512.03385, option B: where the shape changes"),
    ]


def _cifar(depth: int, a: int, b: int, c: int, macs: int) -> list[Figure]:
    each = {"B": (b, 2), "C": (c, (depth - 2) // 2)}
    return [
        _exact(a, _COUNTED),
        *(_exact(each[option][0], _COUNTED, shortcut=option) for option in "BC"),
        Figure("parameters of the plain twin", a, f"{_CIFAR}: option A has as many as plain"),
        Figure("MACs", macs, _COUNTED),
        Figure("depth", depth, f"{_CIFAR}: 6n + 2"),
        Figure("projections", 0, "1512.03385, option A"),
        *(Figure("projections", each[o][1], f"1512.03385, option {o}", {"shortcut": o}) for o in "BC"),
    ]


def _densenet(depth: int, parameters: int, giga: float) -> list[Figure]:
    return [
        _exact(parameters, _LIBRARIES),
        Figure("MACs", giga * 1e9, _COUNTED, unit=1e6),
        Figure("depth", depth, "its name"),
    ]


FIGURES: dict[str, list[Figure]] = {
    "resnet18": _resnet(18, 11_689_512, 1_814_073_344, 1.8e9),
    "resnet34": [
        *_resnet(34, 21_797_672, 3_663_761_408, 3.6e9),
        Figure("projections", 16, "1512.03385: option C adds thirteen", {"shortcut": "C"}),
        Figure("projections", 0, "1512.03385: option A has no parameters", {"shortcut": "A"}),
    ],
    "resnet50": [
        *_resnet(50, 25_557_032, 4_089_184_256, 3.8e9),
        Figure("MACs", 3_857_973_248, _COUNTED, {"stride_on": "1x1"}),
        _exact(25_557_032, "the stride moves no parameters", stride_on="1x1"),
    ],
    "resnet101": _resnet(101, 44_549_160, 7_801_405_440, 7.6e9),
    "resnet152": _resnet(152, 60_192_808, 11_513_626_624, 11.3e9),
    "resnext50_32x4d": [_exact(25_028_904, _LIBRARIES), Figure("depth", 50, "1611.05431, table 1")],
    "wide_resnet50_2": [_exact(68_883_240, _LIBRARIES), Figure("depth", 50, "its name")],
    "wide_resnet101_2": [_exact(126_886_696, _LIBRARIES), Figure("depth", 101, "its name")],
    "cifar_resnet20": _cifar(20, 269_722, 272_474, 283_962, 40_551_040),
    "cifar_resnet32": _cifar(32, 464_154, 466_906, 489_594, 68_862_592),
    "cifar_resnet44": [Figure("depth", 44, f"{_CIFAR}: 6n + 2")],
    "cifar_resnet56": _cifar(56, 853_018, 855_770, 900_858, 125_485_696),
    "cifar_resnet110": _cifar(110, 1_727_962, 1_730_714, 1_826_202, 252_887_680),
    "preact_resnet110": [_exact(1_727_962, f"{_COUNTED}; as many as 1512.03385"), Figure("depth", 110, _PREACT)],
    "preact_resnet164": [
        _exact(1_703_258, _COUNTED),
        _exact(1_726_388, _COUNTED, num_classes=100),
        Figure("depth", 164, _PREACT),
    ],
    "preact_resnet1001": [
        Figure("parameters without norms", 10.2e6, f"{_PREACT}, where it reads as all of them", unit=1e5),
        Figure("depth", 1001, _PREACT),
    ],
    "wide_resnet28_10": [
        _exact(36_479_194, _COUNTED),
        _exact(36_536_884, _COUNTED, num_classes=100),
        Figure("projections", 3, f"{_WRN}: where the shape changes"),
        Figure("depth", 26, f"{_WRN} counts 28: with the projections, without the dense layer"),
    ],
    "wide_resnet40_1": [_exact(563_930, _COUNTED)],
    "densenet121": _densenet(121, 7_978_856, 2.834),
    "densenet161": _densenet(161, 28_681_000, 7.728),
    "densenet169": _densenet(169, 14_149_480, 3.360),
    "densenet201": _densenet(201, 20_013_928, 4.291),
    "cifar_densenet40_12": [_exact(1_019_722, _COUNTED), Figure("depth", 40, _DENSE)],
    "cifar_densenet_bc100_12": [_exact(769_162, _COUNTED), Figure("depth", 100, _DENSE)],
    "cifar_densenet_bc190_40": [_exact(25_624_430, _COUNTED), Figure("depth", 190, _DENSE)],
    "unet": [
        _exact(31_030_658, _COUNTED),
        _exact(31_031_745, _COUNTED, in_channels=3, num_classes=1),
        _exact(31_030_658, "padding has no parameters", padding="valid"),
    ],
    "highway": [
        _exact(213_610, _COUNTED),
        Figure("parameters of the plain twin", 108_010, _COUNTED),
    ],
    "rezero_mlp": [Figure("parameters more than the plain twin", 32, "2003.04887: one number for each of 32 layers")],
    "tabular_resnet": [
        _exact(299_137, "rtdl_revisiting_models 0.0.2"),
        _exact(1_070_087, "rtdl_revisiting_models 0.0.2", inputs=54, outputs=7, blocks=4, width=256, hidden=512),
    ],
    "lang_witbrock": [_exact(138, "the number of weights it is known by"), Figure("depth", 4, "2-5-5-5-1")],
    "cascade": [_exact(117, "(I + 1) O + sum over k < n of (I + 1 + k) + n O, with I = 2, n = 12, O = 1")],
}
#: families are checked as the net they make by default
FIGURES |= {
    "cifar_resnet": FIGURES["cifar_resnet20"], "preact_resnet": FIGURES["preact_resnet164"],
    "wide_resnet": FIGURES["wide_resnet28_10"], "cifar_densenet": FIGURES["cifar_densenet40_12"],
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure, and what was counted here."""

    figure: Figure
    actual: int

    @property
    def expected(self) -> float:
        return self.figure.value

    @property
    def source(self) -> str:
        return self.figure.source

    @property
    def ok(self) -> bool:
        return self.figure.met(self.actual)


@dataclass(frozen=True)
class Check:
    """The figures published of one net beside those counted here; ``ok`` if all are met. Prints as a table."""

    name: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        wrong = sum(not row.ok for row in self.rows)
        lines = [f"{self.name}: " + (f"{wrong} of {len(self.rows)} figures NOT met" if wrong else "all figures met")]
        cells = [("", "here", "figure", "source")]
        cells += [(_what(r.figure), f"{r.actual:,}", _printed(r.figure), r.source) for r in self.rows]
        a, b, c = (max(len(row[i]) for row in cells) for i in range(3))
        signs = ["", *("ok" if row.ok else "NOT" for row in self.rows)]
        for sign, (what, here, figure, source) in zip(signs, cells, strict=True):
            lines.append(f"  {sign:3}  {what:{a}}  {here:>{b}}  {figure:>{c}}  {source}")
        return "\n".join(lines)


def _what(figure: Figure) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in figure.options.items())
    return f"{figure.what} ({options})" if options else figure.what


def _printed(figure: Figure) -> str:
    if not figure.unit:
        return f"{figure.value:,.0f}"
    letter, scale = ("G", 1e9) if figure.value >= 1e9 else ("M", 1e6)
    places = len(f"{scale / figure.unit:.0f}") - 1
    return f"{figure.value / scale:.{places}f} {letter}"


def weightless(name: str, **options: Any) -> Chain:
    """The net of this name, to count and not to run: a large one on torch's meta device. No random state is used."""
    numbers = [f.value for f in FIGURES.get(name, ()) if f.what.startswith("parameters")]
    # on the meta device every call of torch takes a detour, which costs more than the weights of a small net
    with torch.random.fork_rng(devices=[]), torch.device("meta") if max(numbers, default=0) > 5e6 else nullcontext():
        return make(name, **options)


def check(name: str) -> Check:
    """Compare a net with what was published of it: parameters, multiply-adds, depth, projections.

    Raises ``ChainError`` for a name that is not there.

    >>> result = check("lang_witbrock")
    >>> result.ok, [(row.figure.what, row.expected, row.actual) for row in result.rows]
    (True, [('parameters', 138, 138), ('depth', 4, 4)])
    """
    entry(name)
    found: dict[tuple[tuple[str, Any], ...], tuple[Chain, Count]] = {}
    rows = []
    for figure in FIGURES[name]:
        key = tuple(figure.options.items())
        if key not in found:
            net = weightless(name, **figure.options)
            found[key] = net, count(net)
        rows.append(Row(figure, QUANTITIES[figure.what](*found[key])))
    return Check(name, tuple(rows))


__all__ = ["FIGURES", "QUANTITIES", "Check", "Figure", "Row", "check", "weightless"]
