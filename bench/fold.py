"""What folding buys by itself: time of a folded net to that of the same net, both run by PyTorch as they are.

python bench/fold.py [--batch 1] [--nets resnet18,cifar_resnet20] [--threads 1]
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from skipway import Chain, zoo
from skipway.deploy import fold
from timing import interleaved, machine, median_ms, ratio

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each net")
    parser.add_argument("--threads", type=int, help="of torch; 1 where other programs share the machine")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    table = Table(title=f"folded / unfolded, eager, batch {args.batch}: median (quartiles); below 1 is faster")
    for column in ("net", "layers", "ms unfolded", "ms folded", "ratio", "channels last", "float32 difference"):
        table.add_column(column, justify="left" if column == "net" else "right")
    for name in args.nets.split(","):
        net = trained(name)
        shape = NETS.get(name, (3, 224, 224))
        x = torch.randn(args.batch, *shape)
        folded = fold(net, x)
        ways = {"unfolded": (net, x), "folded": (folded, x)}
        if len(shape) == 3:
            last = {"memory_format": torch.channels_last}
            ways |= {
                "unfolded, last": (trained(name).to(**last), x.to(**last)),
                "folded, last": (fold(net, check=False).to(**last), x.to(**last)),
            }
        with torch.inference_mode():
            found = interleaved(
                {key: lambda one=one, x=x: one(x) for key, (one, x) in ways.items()}, budget=args.budget, seconds=0.05
            )
        report = folded.report
        table.add_row(
            name,
            f"{report.before.layers} -> {report.after.layers}",
            f"{median_ms(found['unfolded']):.2f}",
            f"{median_ms(found['folded']):.2f}",
            _shown(*ratio(found, "folded", "unfolded")),
            _shown(*ratio(found, "folded, last", "unfolded, last")) if "folded, last" in found else "",
            f"{report.differences[-1].relative:.1e}",
        )
    console = Console(width=130)
    console.print(table)
    console.print(machine())


def _shown(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
