"""Weights of torchvision and timm in the nets of the zoo: the outputs of both, side by side.

Each peer gets weights and batch-norm statistics that are far from its initial ones, drawn from the names of its state
dict; ``zoo.load`` takes them over; both see the same images in eval mode. The largest difference is told relative to
the largest output.

    python bench/foreign.py [--only densenet] [--double] [--record]

It needs torchvision and timm, in an environment of their own (see DEVELOPERS.md). ``--record`` writes what the tests
compare with to tests/zoo/data: the names and shapes of each state dict in order, and some of the outputs in double
precision. The tests make the same weights again, and need no peer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parents[1] / "tests" / "zoo" / "data"


@dataclass(frozen=True)
class Case:
    """A net of the zoo and the same net of another library."""

    library: str
    model: str
    net: str
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 64
    #: options of the other library's function
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.library}-{self.model}"

    @property
    def file(self) -> Path:
        return DATA / f"{self.name}.json.gz"


BOTH = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2",
    "wide_resnet101_2", "densenet121", "densenet161", "densenet169", "densenet201",
    "convnext_tiny", "convnext_small", "convnext_base",
)  # fmt: skip
TIMM = ("rdnet_tiny", "rdnet_small", "repvgg_a0", "repvgg_a1", "repvgg_b1g4", "mobileone_s0", "mobileone_s1")
DPN = ("68", "92", "98", "107", "131")
CASES = [
    *(Case(library, name, name) for name in BOTH for library in ("torchvision", "timm")),
    *(Case("timm", name, name) for name in TIMM),
    *(Case("timm", f"resnet{depth}d", f"resnet{depth}_d") for depth in (50, 101)),
    Case("timm", "seresnet50", "se_resnet50"),
    *(Case("timm", f"dpn{depth}", f"dual_path{depth}") for depth in DPN),
    Case("timm", "vit_tiny_patch16_224", "vit_tiny", {"image": 64}, asked={"img_size": 64}),
    Case("torchvision", "vit_b_16", "vit_base", {"image": 64}, asked={"image_size": 64}),
]


# -- weights that both sides can make ----------------------------------------------------------------------------------


def uniform(name: str, shape: Sequence[int], low: float, high: float) -> Tensor:
    """Numbers in [low, high) from a name, in double precision: SplitMix64, the same on every machine and version."""
    with np.errstate(over="ignore"):
        state = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
        z = state * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(11)
    return torch.from_numpy(low + (high - low) * (z.astype(np.float64) / 2.0**53)).reshape(tuple(shape))


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state dict of these names and shapes with weights that say which name they belong to."""
    made = {}
    for name, shape in shapes.items():
        role = name.rpartition(".")[2]
        if role == "num_batches_tracked":
            made[name] = torch.tensor(zlib.crc32(name.encode()) % 1000)
        elif role.endswith("weight") and len(shape) > 1:  # of variance 2 / fan-in, so that a relu keeps what arrives
            bound = math.sqrt(6 / math.prod(shape[1:]))
            made[name] = uniform(name, shape, -bound, bound)
        elif role.endswith("bias") or role == "running_mean":
            made[name] = uniform(name, shape, -0.5, 0.5)
        elif role == "running_var":  # more than arrives, so that the sum of many branches does not grow large
            made[name] = uniform(name, shape, 1.0, 4.0)
        else:  # gamma of a norm, a scale
            made[name] = uniform(name, shape, 0.5, 1.5)
    return made


def images(size: int) -> Tensor:
    return uniform("images", (2, 3, size, size), -1.0, 1.0)


def told(output: Tensor) -> list[float]:
    """Some numbers of an output ``(2, classes)``: every 125th of each row, and the mean of each row's squares."""
    return [*output[:, ::125].flatten().tolist(), *output.square().mean(1).tolist()]


def recorded(case: Case) -> tuple[dict[str, list[int]], list[float]]:
    """Names and shapes of a peer's state dict in order, and what it put out."""
    held = json.loads(gzip.decompress(case.file.read_bytes()))
    return held["shapes"], held["output"]


# -- the peers ---------------------------------------------------------------------------------------------------------


def peer(case: Case) -> nn.Module:
    """The other library's net."""
    if case.library == "torchvision":
        import torchvision.models

        return getattr(torchvision.models, case.model)(weights=None, **case.asked)
    import timm

    return timm.create_model(case.model, pretrained=False, **case.asked)


def without_operators() -> Any:
    """Let torchvision be imported where its compiled operators do not fit the torch at hand: no net here uses them.

    Their names must exist for its import; what is returned must be kept as long as they are wanted.
    """
    names = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        names.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    return names


def compare(case: Case, double: bool, record: bool) -> tuple[int, float]:
    """How many tensors were loaded, and the relative difference of the outputs."""
    from skipway import zoo

    theirs = peer(case).eval().double()
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    state = weights(shapes)
    theirs.load_state_dict(state)
    mine = zoo.make(case.net, **case.options).eval().double()
    report = zoo.load(mine, state)
    x = images(case.size)
    with torch.no_grad():
        if record:
            text = json.dumps({"shapes": shapes, "output": told(theirs(x))}, separators=(",", ":"))
            DATA.mkdir(exist_ok=True)
            case.file.write_bytes(gzip.compress(text.encode(), mtime=0))
        dtype = torch.float64 if double else torch.float32
        a, b = (net.to(dtype)(x.to(dtype)) for net in (mine, theirs))
    return len(report.entries), ((a - b).abs().max() / b.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--double", action="store_true", help="compare in double precision")
    parser.add_argument("--record", action="store_true", help="write the references of the tests")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = without_operators()
    import timm
    import torchvision

    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}")
    bound = 1e-12 if options.double else 1e-5
    worst = 0.0
    for case in CASES:
        if options.only in case.name:
            count, difference = compare(case, options.double, options.record)
            worst = max(worst, difference)
            print(f"{case.name:34} {count:5} tensors   {difference:.1e}", flush=True)
    print(f"largest relative difference {worst:.1e}, and {bound:.0e} is allowed")
    del kept
    sys.exit(worst > bound)


if __name__ == "__main__":
    main()
