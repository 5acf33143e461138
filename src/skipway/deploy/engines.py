"""What can run a folded chain: PyTorch as it is, PyTorch's compiler, ONNX Runtime, OpenVINO. One function an engine.

Each builds a callable of one tensor from a chain, an example and a precision, or raises :class:`Unfit`. The callables
take and give float32, and may be called from several threads at once.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from skipway.chain import Chain

Precision = Literal["fp32", "bf16"]
Run = Callable[[Tensor], Tensor]


class Unfit(Exception):
    """An engine that cannot run this chain here; says why."""


@dataclass(frozen=True)
class Engine:
    """An engine: how it is built, and what has to be installed for it.

    Attributes
    ----------
    build:
        makes the callable.
    needs:
        modules that it imports.
    extra:
        what to install, ``pip install "skipway[extra]"``; empty for what comes with PyTorch.
    devices:
        kinds of device it runs on.
    """

    build: Callable[[Chain, Tensor, Precision], Run]
    needs: tuple[str, ...] = ()
    extra: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def missing(self) -> str:
        """What is not installed, and how to get it; empty where nothing is missing."""
        gone = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f'needs {" and ".join(gone)}: pip install "skipway[{self.extra}]"' if gone else ""


def eager(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """The chain as it is."""
    return _on_torch(_ready(chain, precision), precision)


def channels_last(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """The chain with the channels of images next to each other in memory, as convolutions on CPUs and GPUs like it."""
    if example.dim() != 4:
        raise Unfit("the input is no image")
    run = _on_torch(_reordered(_ready(chain, precision)), precision)
    return lambda x: run(_last(x))


def _reordered(net: nn.Module) -> nn.Module:
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _last(x: Tensor) -> Tensor:
    """The image with its channels last in memory, also where there is one: torch takes that for channels first."""
    _, c, h, w = x.shape
    if c == 1:
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)


def compiled(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """PyTorch's compiler, with weights as constants. The first call with another shape or N compiles again."""
    try:
        from torch._inductor import config
    except ImportError as error:
        raise Unfit("this PyTorch has no inductor") from error
    if not hasattr(config, "freezing"):
        raise Unfit("this PyTorch cannot freeze weights")
    net = _ready(chain, precision)
    images = example.dim() == 4 and example.shape[1] > 1  # inductor errs on one channel laid out channels last
    run = torch.compile(_reordered(net) if images else net, dynamic=False)
    seen: set[torch.Size] = set()
    lock = threading.Lock()

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            x = _enter(_last(x) if images else x, precision)
            if x.shape in seen:
                return _leave(run(x), precision)
            # compiled in this very call, which no two threads may do at once
            with lock, config.patch(freezing=True), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = run(x)
            seen.add(x.shape)
            return _leave(made, precision)

    return call


def onnxruntime(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """ONNX Runtime on the CPU, for any number of rows."""
    import onnxruntime as ort

    if precision != "fp32":
        raise Unfit("ONNX Runtime computes in fp32 here")
    rows = {0: torch.export.Dim("rows")}
    net, log = copy.deepcopy(chain), logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of libraries that are not installed
    try:
        program = torch.onnx.export(net, (_rows(example),), dynamo=True, dynamic_shapes=(rows,), verbose=False)
    finally:
        log.setLevel(level)
    assert program is not None
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.detach().contiguous().numpy()})[0])

    return call


def openvino(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """OpenVINO on the CPU, for any number of rows."""
    import openvino as ov

    rows = {0: torch.export.Dim("rows")}
    with torch.no_grad():
        exported = torch.export.export(copy.deepcopy(chain), (_rows(example),), dynamic_shapes=(rows,))
        model = ov.convert_model(exported)
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    ready = ov.compile_model(model, "CPU", options)
    own = threading.local()  # a request runs one input at a time

    def call(x: Tensor) -> Tensor:
        request = getattr(own, "request", None)
        if request is None:
            request = own.request = ready.create_infer_request()
        made = request.infer({0: x.detach().contiguous().numpy()}, share_inputs=True)[0]
        return torch.from_numpy(made.copy())  # the next call writes over it

    return call


ENGINES: dict[str, Engine] = {
    "eager": Engine(eager),
    "channels_last": Engine(channels_last),
    "compile": Engine(compiled),
    "onnxruntime": Engine(onnxruntime, ("onnx", "onnxscript", "onnxruntime"), "onnx", ("cpu",)),
    "openvino": Engine(openvino, ("openvino",), "openvino", ("cpu",)),
}


def _ready(chain: Chain, precision: Precision) -> nn.Module:
    """A copy of the chain in the precision it is to compute in."""
    net = copy.deepcopy(chain).eval().requires_grad_(False)
    return net.to(torch.bfloat16) if precision == "bf16" else net


def _rows(example: Tensor) -> Tensor:
    """An example of two rows at least: an exporter takes one row for a constant."""
    return example if len(example) > 1 else torch.cat([example, example])


def _on_torch(net: nn.Module, precision: Precision) -> Run:
    def call(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return _leave(net(_enter(x, precision)), precision)

    return call


def _enter(x: Tensor, precision: Precision) -> Tensor:
    return x.to(torch.bfloat16) if precision == "bf16" and x.is_floating_point() else x


def _leave(x: Tensor, precision: Precision) -> Tensor:
    return x.float() if precision == "bf16" else x
