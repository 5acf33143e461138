"""What can run a folded chain: PyTorch in several ways, ONNX Runtime, OpenVINO. One function an engine.

Each builds a callable of one tensor from a chain, an example and a precision, or raises :class:`Unfit`. The callables
take and give float32, and may be called from several threads at once.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.compiling import compile_alone

from .onednn import missing, program

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
    norms:
        whether it may run norm and relu faster than the clamp that folding makes of them.
    alone:
        whether it has threads of its own, and may be told to use one: ``build`` takes ``threads=1`` then.
    """

    build: Callable[..., Run]
    needs: tuple[str, ...] = ()
    extra: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")
    norms: bool = False
    alone: bool = False

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


def onednn(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """Straight-line code on PyTorch's fused oneDNN operators, which are private: they are looked for and tried first.

    A convolution, its activation and the sum with a shortcut are one call, the concatenations of a dense block share
    one room. What these operators do not take is computed by plain PyTorch.
    """
    why = missing(precision)
    if why:
        raise Unfit(why)
    net = _ready(chain, precision)
    image = example.dim() == 4
    if image:
        _reordered(net)
    with torch.no_grad():
        written = program(net, _enter(_last(example) if image else example, precision))
    code, shape, other = written.function(), example.shape[1:], _on_torch(net, precision)

    def run(x: Tensor) -> Tensor:
        if x.shape[1:] != shape:  # shortcuts are known to fit for the shape of the example only
            return other(_last(x) if image else x)
        with torch.no_grad():  # what inference mode makes could not be used to train with
            return _leave(code(_enter(_last(x) if image else x, precision)), precision)

    return run


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
    run = compile_alone(_reordered(net) if images else net, dynamic=False)
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


def cuda_graph(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """The chain as one recorded graph of kernels a shape, so that a call launches once; channels last for images.

    Calls wait for each other: a graph has one place for its input. After ``SHAPES`` shapes others run unrecorded.
    """
    net = _ready(chain, precision)
    image = example.dim() == 4
    if image:
        _reordered(net)
    plain, lock = _on_torch(net, precision), threading.Lock()
    recorded: dict[torch.Size, _Recorded] = {}

    def run(x: Tensor) -> Tensor:
        x = _last(x) if image else x
        with lock, torch.no_grad(), torch.cuda.device(x.device):
            held = recorded.get(x.shape)
            if held is None and len(recorded) < SHAPES:
                held = recorded[x.shape] = _Recorded(net, _enter(x, precision))
            if held is not None:
                return _leave(held(x), precision)
        return plain(x)

    return run


class _Recorded:
    """A graph of kernels for one shape, with its places for input and output."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self._input, self._graph, self._done = x.clone(), torch.cuda.CUDAGraph(), torch.cuda.Event()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is set up on first use must not be recorded
            for _ in range(3):
                net(self._input)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph):
            self._output = net(self._input)
        self._done.record()

    def __call__(self, x: Tensor) -> Tensor:
        self._done.wait()  # another thread's stream may still work on the same places
        self._input.copy_(x)
        self._graph.replay()
        made = self._output.clone()
        self._done.record()
        return made


# -- engines that are given a graph ------------------------------------------------------------------------------------

#: graphs as :mod:`torch.export` made them, shared by the engines that start from one
_EXPORTED: weakref.WeakKeyDictionary[nn.Module, tuple[torch.Size, Any]] = weakref.WeakKeyDictionary()


def exported(chain: Chain, example: Tensor) -> Any:
    """The chain as a graph for any number of rows; made once, until :func:`forget`."""
    held = _EXPORTED.get(chain)
    if held is None or held[0] != example.shape[1:]:
        rows = {0: torch.export.Dim("rows")}
        with torch.no_grad():
            made = torch.export.export(copy.deepcopy(chain), (_rows(example),), dynamic_shapes=(rows,))
        held = _EXPORTED[chain] = (example.shape[1:], made)
    return held[1]


def forget(chain: Chain) -> None:
    """Let go of what :func:`exported` keeps, which holds all weights once more."""
    _EXPORTED.pop(chain, None)


def onnxruntime(chain: Chain, example: Tensor, precision: Precision, threads: int | None = None) -> Run:
    """ONNX Runtime on the CPU, for any number of rows."""
    import onnxruntime as ort

    if precision != "fp32":
        raise Unfit("ONNX Runtime has no bf16 kernels on CPUs")
    options = session_options(ort, threads)
    session = ort.InferenceSession(onnx_bytes(chain, example), options, providers=["CPUExecutionProvider"])
    name, names = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    run = getattr(session, "_sess", session).run  # the wrapper around it takes a microsecond a call

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(run(names, {name: _array(x)}, None)[0])

    return call


def _array(x: Tensor) -> Any:
    """A tensor as an array in the ordinary layout, without a copy where it is so already."""
    return (x.detach() if x.requires_grad else x).contiguous().numpy()


def onnx_bytes(chain: Chain, example: Tensor) -> bytes:
    """The chain as an ONNX file."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of libraries that are not installed
    try:
        made = torch.onnx.export(exported(chain, example), (_rows(example),), dynamo=True, verbose=False)
    finally:
        log.setLevel(level)
    assert made is not None
    data: bytes = made.model_proto.SerializeToString()
    return data


def session_options(ort: Any, threads: int | None = None) -> Any:
    """How ONNX Runtime runs: with as many threads as torch, and quietly. All optimisations are its default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return options


def openvino(chain: Chain, example: Tensor, precision: Precision) -> Run:
    """OpenVINO on the CPU: compiled for the number of rows of the example and the next few that come, then for any.

    Code for a fixed number of rows is faster, and is made in a moment from the same graph.
    """
    import openvino as ov

    model = ov.convert_model(exported(chain, example))
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    ready: dict[torch.Size | None, Any] = {}
    lock, own = threading.Lock(), threading.local()  # a request runs one input at a time

    def compiled_for(shape: torch.Size | None) -> Any:
        with lock:
            if shape not in ready:
                fixed = model.clone()
                if shape is not None:
                    fixed.reshape(list(shape))
                ready[shape] = ov.compile_model(fixed, "CPU", options)
            return ready[shape]

    def call(x: Tensor) -> Tensor:
        if x.shape[1:] != example.shape[1:]:  # it would take other sizes, and shortcuts may not fit there
            raise ValueError(f"made for {tuple(example.shape[1:])}")
        requests = own.__dict__.setdefault("requests", {})
        key = x.shape if x.shape in ready or len(ready) < SHAPES else None
        if key not in requests:
            requests[key] = compiled_for(key).create_infer_request()
        request = requests[key]
        request.set_input_tensor(ov.Tensor(_array(x), shared_memory=True))
        if key is None:
            request.infer()
            return torch.from_numpy(request.get_output_tensor().data.copy())  # the next call writes over it
        made = torch.empty(tuple(request.get_output_tensor().shape))
        request.set_output_tensor(ov.Tensor(made.numpy(), shared_memory=True))
        request.infer()
        return made

    return call


#: how many shapes of input an engine prepares itself for, each by itself
SHAPES = 8

ENGINES: dict[str, Engine] = {
    "eager": Engine(eager),
    "channels_last": Engine(channels_last),
    "onednn": Engine(onednn, devices=("cpu",)),
    "cuda_graph": Engine(cuda_graph, devices=("cuda",)),
    "compile": Engine(compiled),
    "onnxruntime": Engine(onnxruntime, ("onnx", "onnxscript", "onnxruntime"), "onnx", ("cpu",), norms=True, alone=True),
    "openvino": Engine(openvino, ("openvino",), "openvino", ("cpu",), norms=True),
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
        with torch.no_grad():
            return _leave(net(_enter(x, precision)), precision)

    return call


def _enter(x: Tensor, precision: Precision) -> Tensor:
    return x.to(torch.bfloat16) if precision == "bf16" and x.is_floating_point() else x


def _leave(x: Tensor, precision: Precision) -> Tensor:
    return x.float() if precision == "bf16" else x
