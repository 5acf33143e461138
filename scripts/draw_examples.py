"""Draw the nets that ``docs/drawings.md`` shows, into ``docs/images``.

python scripts/draw_examples.py
"""

from __future__ import annotations

from pathlib import Path

from skipway import (
    Chain,
    Conv,
    Dense,
    GlobalAvgPool,
    MaxPool,
    Parallel,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    zoo,
)  # fmt: skip

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

NETS = {
    "question": lambda: Chain(
        Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project")
    ),
    "crossing": lambda: Chain(
        stem=Dense(8, 16, relu), a=Dense(..., 16, relu), b=Dense(..., 16, relu), head=Dense(..., 2),
        wiring=[Shortcut("stem", "b"), Shortcut("input", "a", merge="cat")],
    ),
    "branches": lambda: Chain(
        stem=Conv(3, 16, 3, relu, padding=1),
        mix=Parallel(
            Conv(16, 16, 1),
            Skip(reduce=Conv(16, 8, 1, relu), body=Conv(8, 16, 3, padding=1)),
            Chain(pool=MaxPool(3, 1, 1), conv=Conv(16, 16, 1)),
            merge="cat",
        ),
        mean=GlobalAvgPool(), head=Dense(..., 10),
        wiring=[Shortcut("stem", "mix", path="project")], input=(3, 32, 32),
    ),
    "split": lambda: Chain(
        stem=Conv(3, 64, 3, relu, padding=1),
        block=Skip(
            Parallel(*[Chain(Conv(64, 4, 1, relu), Conv(4, 4, 3, relu, padding=1), Conv(4, 64, 1)) for _ in range(32)]),
            act=relu,
        ),
        input=(3, 32, 32),
    ),
    "dense": lambda: Chain(*[Dense(4, 4) for _ in range(12)], wiring=dense()),
    "thousand": lambda: Chain(*[Dense(8, 8, relu) for _ in range(1000)], wiring=every(2)),
}  # fmt: skip


def main() -> None:
    for name, make in NETS.items():
        print("drawn:", make().draw(IMAGES / f"{name}.svg"))
    print("drawn:", zoo.make("unet", width=16, depth=3).draw(IMAGES / "unet_down.svg", direction="vertical"))


if __name__ == "__main__":
    main()
