"""Every exact number of the zoo, and how a check reads."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from skipway import ChainError
from skipway.zoo import published
from skipway.zoo.published import FIGURES, Check, Figure, Row
from skipway.zoo.registry import ENTRIES, names

#: parameters, written here a second time: the table of the library must not drift
PARAMETERS = {
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808, "resnext50_32x4d": 25_028_904, "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696, "cifar_resnet20": 269_722, "cifar_resnet32": 464_154, "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962, "preact_resnet110": 1_727_962, "preact_resnet164": 1_703_258,
    "wide_resnet28_10": 36_479_194, "wide_resnet40_1": 563_930, "densenet121": 7_978_856, "densenet161": 28_681_000,
    "densenet169": 14_149_480, "densenet201": 20_013_928, "cifar_densenet40_12": 1_019_722,
    "cifar_densenet_bc100_12": 769_162, "cifar_densenet_bc190_40": 25_624_430, "unet": 31_030_658, "highway": 213_610,
    "resnet50_d": 25_576_264, "resnet101_d": 44_568_392, "tabular_resnet": 299_137, "lang_witbrock": 138,
    "cascade": 117, "densenet264": 33_337_704, "cifar_resnext29_8x64d": 34_426_698,
    "cifar_resnext29_16x64d": 68_155_210, "convnext_tiny": 28_589_128, "convnext_small": 50_223_688,
    "convnext_base": 88_591_464, "convnext_large": 197_767_336, "repvgg_a0": 9_108_968, "repvgg_a1": 14_092_264,
    "repvgg_a2": 28_210_600, "repvgg_b0": 15_817_960, "repvgg_b1": 57_415_016, "repvgg_b1g4": 39_966_056,
    "repvgg_b2": 89_022_376, "repvgg_b3": 123_085_288, "mobileone_s0": 5_293_272, "mobileone_s1": 4_825_192,
    "mobileone_s2": 7_884_648, "mobileone_s3": 10_170_600, "unet_plus_plus": 9_041_601, "hourglass": 23_717_888,
    "vit_tiny": 5_717_416, "vit_small": 22_050_664, "vit_base": 86_567_656, "vit_large": 304_326_632,
    "linknet": 11_535_635, "dirac28_5": 9_124_250, "dirac28_10": 36_450_090, "dirac34_2": 1_854_378,
    "diracnet18": 11_523_368, "diracnet34": 21_638_952, "fpn": 26_852_416, "pyramidnet110_48": 1_772_706,
    "pyramidnet110_84": 3_904_446, "pyramidnet110_270": 28_485_477, "pyramidnet164_270": 27_216_021,
    "pyramidnet200_240": 26_752_702, "pyramidnet236_220": 26_969_046, "pyramidnet272_200": 26_210_842,
    "stochastic_depth_resnet110": 1_727_962, "shake_shake26_2x32d": 2_923_162, "shake_shake26_2x64d": 11_653_978,
    "shake_shake26_2x96d": 26_192_922, "fixup_resnet": 1_720_138, "fixup_resnet50": 25_504_026, "deep_cross": 6_129,
    "fractalnet20": 33_724_618, "se_resnet50": 28_088_024, "dual_path68": 12_611_602, "dual_path92": 37_668_392,
    "dual_path98": 61_570_728, "dual_path107": 86_917_800, "dual_path131": 79_254_504, "nf_resnet50": 25_557_048,
    "rdnet_tiny": 23_863_008, "rdnet_small": 50_436_448, "rdnet_base": 87_451_096, "rdnet_large": 186_269_632,
}  # fmt: skip
MACS = {
    "resnet18": 1_814_073_344, "resnet34": 3_663_761_408, "resnet50": 4_089_184_256, "resnet101": 7_801_405_440,
    "resnet152": 11_513_626_624, "cifar_resnet20": 40_551_040, "cifar_resnet32": 68_862_592,
    "cifar_resnet56": 125_485_696, "cifar_resnet110": 252_887_680,
}  # fmt: skip
FAMILIES = [
    "cifar_resnet", "preact_resnet", "wide_resnet", "cifar_densenet", "cifar_resnext", "repvgg", "mobileone", "dirac",
    "pyramidnet", "stochastic_depth_resnet", "shake_shake", "fractalnet", "dual_path",
]  # fmt: skip
DEEP = [
    "resnet101", "resnet152", "resnet101_d", "cifar_resnet110", "preact_resnet164", "densenet161", "densenet169",
    "densenet201", "cifar_densenet_bc190_40", "densenet264", "convnext_small", "convnext_base", "convnext_large",
    "repvgg_a2", "repvgg_b1", "repvgg_b1g4", "repvgg_b2", "repvgg_b3", "mobileone_s0", "mobileone_s2", "mobileone_s3",
    "hourglass", "vit_large", "pyramidnet110_48", "pyramidnet110_84", "pyramidnet110_270", "pyramidnet164_270",
    "pyramidnet200_240", "pyramidnet236_220", "pyramidnet272_200", "stochastic_depth_resnet110", "fixup_resnet",
    "dual_path98", "dual_path107", "dual_path131", "rdnet_small", "rdnet_base", "rdnet_large",
]  # fmt: skip
TOO_DEEP = "preact_resnet1001"  # ten seconds; its figure has a formula in test_cifar.py


def default_parameters(row: Row) -> bool:
    return row.figure.what == "parameters" and not row.figure.options


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
        for name in names()
        if name not in FAMILIES and name != TOO_DEEP
    ],
)
def test_all_figures_are_met(name, check):
    result = check(name)
    assert result.ok, str(result)
    assert result.rows
    found = {row.actual for row in result.rows if default_parameters(row)}
    assert found == ({PARAMETERS[name]} if name in PARAMETERS else set())
    exact = {row.actual for row in result.rows if row.figure.what == "MACs" and not row.figure.options}
    assert name not in MACS or exact == {MACS[name]}


def test_all_nets_have_figures():
    assert set(FIGURES) == set(ENTRIES)
    assert set(PARAMETERS) | {"cifar_resnet44", "rezero_mlp", TOO_DEEP, *FAMILIES} == set(ENTRIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_figures_of_what_it_makes_by_default(name):
    alike = [other for other in FIGURES if other != name and FIGURES[other] is FIGURES[name]]
    entry, twin = ENTRIES[name], ENTRIES[alike[0]]
    defaults = [p.default for key, p in inspect.signature(entry.function).parameters.items() if key in twin.says]
    assert entry.function is twin.function
    assert defaults == list(twin.says.values()) or name == "preact_resnet"


def test_printed_numbers_are_met_to_their_last_place():
    figure = Figure("MACs", 3.6e9, "a table", unit=1e8)
    assert figure.met(3_663_761_408)
    assert not figure.met(3_857_973_248)
    assert not Figure("MACs", 3.6e9, "a table").met(3_600_000_001)


def test_a_net_that_differs_is_told(monkeypatch):
    figures = [Figure("parameters", 139, "somebody"), Figure("depth", 4, "2-5-5-5-1")]
    monkeypatch.setitem(published.FIGURES, "lang_witbrock", figures)
    result = published.check("lang_witbrock")
    assert not result.ok
    assert [row.ok for row in result.rows] == [False, True]
    assert (result.rows[0].expected, result.rows[0].actual, result.rows[0].source) == (139, 138, "somebody")
    assert str(result).splitlines() == [
        "lang_witbrock: 1 of 2 figures NOT met",
        "                   here  figure  source",
        "  NOT  parameters   138     139  somebody",
        "  ok   depth          4       4  2-5-5-5-1",
    ]


def test_how_a_check_reads(check):
    text = str(check("resnet50"))
    assert text.startswith("resnet50: all figures met\n")
    assert "  ok   MACs (stride_on='1x1')        3,857,973,248          3.8 G  1512.03385, table 1" in text


def test_a_check_is_data():
    result = Check("net", (Row(Figure("depth", 4, "me"), 4),))
    assert result == dataclasses.replace(result)
    assert result.ok


def test_unknown_name():
    with pytest.raises(ChainError, match="no net of the zoo is named 'resnet19': did you mean 'resnet1"):
        published.check("resnet19")
