"""The net that a word on the command line means: ``file.py:name``, ``package.module:name`` or a name of the zoo."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from skipway.errors import SkipwayError, nearest


class LocateError(SkipwayError, LookupError):
    """A word that names no net, or a file that cannot be run."""


def locate(word: str) -> nn.Module:
    """The net of this name.

    ``word`` is ``file.py:name``, ``package.module:name`` (found from the current folder too) or a name of the zoo. The
    name may be left out where there is only one net. What it names may be a module, or a function or class that makes
    one when called without arguments.

    Raises ``LocateError``, in one line: for a file that is not there or fails (with the line it fails in), and for a
    name that is not there (with the nearest that is) or is no net.

    >>> locate("torch.nn:Flatten")
    Flatten(start_dim=1, end_dim=-1)
    >>> locate("torch.nn:Flaten")
    Traceback (most recent call last):
    skipway.locate.LocateError: torch.nn has no 'Flaten': did you mean 'Flatten'?
    """
    place, colon, name = word.rpartition(":")
    if not colon:
        place, name = word, ""
    if place.endswith(".py"):
        held, where = vars(_run(Path(place))), place
    elif colon:
        held, where = vars(_import(place)), place
    elif Path(word).suffix or "/" in word:
        raise LocateError(
            f"{word!r} is no Python file: MODEL is file.py:name, package.module:name or a name of the zoo"
        )
    else:
        return _from_zoo(word)
    name = name or _only(held, where)
    if name not in held:
        # a net of the file before anything else it imported
        near = [nearest(name, among) for among in (_nets(held), _public(held))]
        known = next((n for n in near if n.startswith("did")), next(filter(None, near), ""))
        raise LocateError(f"{where} has no {name!r}: {known or 'it is empty'}")
    return _made(held[name], f"{where}:{name}")


def _from_zoo(word: str) -> nn.Module:
    zoo: Any = importlib.import_module("skipway.zoo")
    if word not in zoo.names():
        beside = f"{word}.py is there: write {word}.py:name" if Path(f"{word}.py").is_file() else ""
        raise LocateError(
            f"no net of the zoo is named {word!r}: {beside or nearest(word, zoo.names())}"
            + ("" if beside else " Or give file.py:name or package.module:name.")
        )
    net: nn.Module = zoo.make(word)
    return net


def _run(path: Path) -> ModuleType:
    """The module of a file, run as a script is: what lies beside it can be imported."""
    if not path.is_file():
        raise LocateError(f"there is no file {str(path)!r}{_hint(path.name, _files(path.parent))}")
    # a name of its own, so that train.py or data.py hides nothing
    name = f"_skipway_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LocateError(f"{path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _find_beside(path.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise LocateError(f"{_spot(error, path)}: {_said(error)}") from error
    return module


def _import(name: str) -> ModuleType:
    _find_beside(Path())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and (name + ".").startswith(error.name + "."):
            raise LocateError(f"there is no module {error.name!r}{_hint(name, _files(Path()))}") from error
        spec = getattr(sys.modules.get(name), "__file__", None)
        raise LocateError(f"{_spot(error, Path(spec) if spec else None)}: {_said(error)}") from error


def _find_beside(folder: Path) -> None:
    here = str(folder.resolve())
    if here not in sys.path:
        sys.path.insert(0, here)


def _spot(error: BaseException, path: Path | None) -> str:
    """``net.py:12``: the last line of the file that the error passed through, else of whatever raised it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the file ends Python (exit code {error.code})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _public(held: Mapping[str, Any]) -> list[str]:
    return [name for name in held if not name.startswith("_")]


def _nets(held: Mapping[str, Any]) -> list[str]:
    """The names of what is, or may make, a net of the file's own."""
    here = held.get("__name__")
    made = [name for name in _public(held) if isinstance(held[name], nn.Module)]
    kinds = [name for name in _public(held) if callable(held[name]) and getattr(held[name], "__module__", None) == here]
    return [*made, *(name for name in kinds if name not in made)]


def _only(held: Mapping[str, Any], where: str) -> str:
    nets = [name for name in _public(held) if isinstance(held[name], nn.Module)] or _nets(held)
    if len(nets) == 1:
        return nets[0]
    if not nets:
        raise LocateError(f"{where} holds no net: assign one to a name, net = Chain(...)")
    raise LocateError(f"{where} holds several nets, so say which: {', '.join(f'{where}:{name}' for name in nets[:6])}")


def _made(thing: Any, word: str) -> nn.Module:
    if isinstance(thing, nn.Module):
        return thing
    if not callable(thing):
        raise LocateError(f"{word} is of type {type(thing).__name__}, not a net or a function that makes one")
    try:
        inspect.signature(thing).bind()
    except TypeError as error:
        raise LocateError(f"{word} cannot be called without arguments ({error}): write a function that can") from None
    except ValueError:  # built in, with a signature that nobody knows
        pass
    try:
        net = thing()
    except Exception as error:
        code = getattr(thing, "__code__", None)
        raise LocateError(f"{_spot(error, Path(code.co_filename) if code else None)}: {_said(error)}") from error
    if not isinstance(net, nn.Module):
        raise LocateError(f"{word} made a {type(net).__name__}, not a torch.nn.Module")
    return net


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.py")) if folder.is_dir() else []


def _hint(word: str, known: list[str]) -> str:
    told = nearest(word, known)
    return f": {told}" if told else ""
