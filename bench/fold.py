"""What folding buys by itself: a folded net beside the same net, both run by PyTorch as they are.

python bench/fold.py [resnet18 ...] [--batch 1] [--budget 5] [--threads 1] [--quick]
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

from record import Table, save
from skipway import Chain, zoo
from skipway.deploy import fold
from timing import interleaved

NETS = {
    "resnet18": (3, 224, 224), "cifar_resnet20": (3, 32, 32), "cifar_densenet40_12": (3, 32, 32),
    "densenet121": (3, 224, 224), "repvgg_a0": (3, 224, 224), "tabular_resnet": (8,),
}  # fmt: skip


def trained(name: str) -> Chain:
    """A net as training would leave it: its norms are not the identity."""
    torch.manual_seed(0)
    net = zoo.make(name).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


def measure(table: Table, name: str, batch: int, budget: float) -> None:
    """Add the rows of one net: in the ordinary layout, and images with their channels last too."""
    net = trained(name)
    shape = NETS.get(name, (3, 224, 224))
    x = torch.randn(batch, *shape)
    folded = fold(net, x)
    report = folded.report
    more = {
        "plain": {"layers": str(report.before.layers), "differs by": ""},
        "folded": {"layers": str(report.after.layers), "differs by": f"{report.differences[-1].relative:.0e}"},
    }
    layouts = {"": torch.contiguous_format} | ({", channels last": torch.channels_last} if len(shape) == 3 else {})
    for label, layout in layouts.items():
        given = x.contiguous(memory_format=layout)
        pair = {"folded": folded.to(memory_format=layout), "plain": net.to(memory_format=layout)}
        with torch.inference_mode():
            ways = {key: lambda one=one, given=given: one(given) for key, one in pair.items()}
            table.add(f"{name}{label}", interleaved(ways, budget=budget, seconds=0.05), more=more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="net", help=", ".join(NETS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds to measure each net and layout")
    parser.add_argument("--threads", type=int, help="of torch; 1 where other programs share the machine")
    parser.add_argument("--quick", action="store_true", help="two small nets, to see that all works")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    table = Table("fold", f"A folded net, batch {args.batch}, eager PyTorch", ours="folded", quick=args.quick)
    table.notes.append(
        f"{torch.get_num_threads()} threads. The difference is that of float32 outputs, relative to the largest; in "
        f"float64 folding is exact to rounding, which is checked each time."
    )
    for name in ["cifar_resnet20", "tabular_resnet"] if args.quick else args.nets:
        measure(table, name, args.batch, 0.5 if args.quick else args.budget)
    save(table)


if __name__ == "__main__":
    main()
