"""Parameters and multiply-adds of the residual nets of ImageNet, counted a second time with nothing but arithmetic."""

from __future__ import annotations

import pytest

from skipway.zoo.cost import count

#: blocks in each stage, whether they are bottlenecks
NETS = {
    "resnet18": ((2, 2, 2, 2), False), "resnet34": ((3, 4, 6, 3), False), "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True), "resnet152": ((3, 8, 36, 3), True),
}  # fmt: skip


def oracle(name, option="B", stride_on="3x3"):
    """``(parameters, multiply-adds)`` for 224 x 224 pixels and 1000 classes."""
    blocks, deep = NETS[name]
    parameters, macs = 3 * 49 * 64 + 2 * 64, 112 * 112 * 3 * 49 * 64
    side, start = 56, 64
    for i, n in enumerate(blocks):
        inner = 64 << i
        end = 4 * inner if deep else inner
        for k in range(n):
            stride = 2 if i and not k else 1
            after = side // stride
            if deep:
                first = after if stride_on == "1x1" else side
                parameters += start * inner + 9 * inner**2 + inner * end + 2 * (2 * inner + end)
                macs += first**2 * start * inner + after**2 * (9 * inner**2 + inner * end)
            else:
                parameters += 9 * (start * end + end**2) + 2 * 2 * end
                macs += after**2 * 9 * (start * end + end**2)
            if option == "C" or (option == "B" and (start, stride) != (end, 1)):
                parameters += start * end + 2 * end
                macs += after**2 * start * end
            side, start = after, end
    return parameters + start * 1000 + 1000, macs + start * 1000


@pytest.mark.parametrize(
    ("name", "options", "parameters", "macs"),
    [
        ("resnet18", {}, 11_689_512, 1_814_073_344),
        ("resnet34", {"option": "A"}, 21_623_848, 3_644_493_824),
        ("resnet34", {}, 21_797_672, 3_663_761_408),
        ("resnet34", {"option": "C"}, 22_716_840, 3_830_747_136),
        ("resnet50", {"option": "A"}, 22_780_456, 3_729_522_688),
        ("resnet50", {}, 25_557_032, 4_089_184_256),
        ("resnet50", {"stride_on": "1x1"}, 25_557_032, 3_857_973_248),
        ("resnet50", {"option": "C"}, 40_128_552, 6_555_435_008),
        ("resnet101", {}, 44_549_160, 7_801_405_440),
        ("resnet101", {"stride_on": "1x1"}, 44_549_160, 7_570_194_432),
        ("resnet152", {}, 60_192_808, 11_513_626_624),
        ("resnet152", {"stride_on": "1x1"}, 60_192_808, 11_282_415_616),
    ],
)
def test_by_hand(name, options, parameters, macs, built):
    assert oracle(name, **options) == (parameters, macs)
    said = {{"option": "shortcut"}.get(key, key): value for key, value in options.items()}
    found = count(built(name, **said))
    assert (found.parameters, found.macs) == (parameters, macs)
