"""Faster executors for parts of a chain while it trains.

A chain runs the code that was generated from its plan. Where the plan shows a part that can be computed better as a
whole, an engine may take it over: same outputs, gradients and running statistics, less time and memory. There is one:

- **Dense blocks** (1608.06993): at least two layers ``norm, relu, 1x1 convolution, norm, relu, convolution``, or
  ``norm, relu, convolution``, under ``dense(merge=Cat(first="shortcut"))``. One buffer holds all features (no
  concatenation, memory linear in depth: 1707.06990), the statistics of a channel are computed once, all passes go in
  tiles that stay in a cache, and what is cheap is computed again in the backward (``kernel.py`` has the mathematics,
  ``function.py`` the autograd node).

How it comes to run: ``recognise.py`` finds *segments* in the graph, by wiring alone. For a chain with segments a second
forward is generated, in which each is one call; that call reads the layers as they are now and asks whether anything
speaks against the engine (a hook, a frozen norm, autocast, a transform, a small input, ...): then it runs the generated
code of the segment (``run.py``). Nothing is cached on modules, so copies, pickles and surgery need no care. The second
forward serves training only; ``net.code``, ``features``, eval mode, ``torch.compile`` and export see the plain one.

``net.engines`` tells what runs where and why not, :func:`explain` the same for an input, and :func:`use_engines` is
the switch.
"""

from __future__ import annotations

from .recognise import Segment, segments
from .run import Use, executor, explain, use_engines, uses

__all__ = ["Segment", "Use", "executor", "explain", "segments", "use_engines", "uses"]
