"""Studies: what shortcuts do, measured."""

from skipway.study.compare import compare
from skipway.study.comparison import Comparison, Run
from skipway.study.paths import Paths, paths
from skipway.study.signal import Signal, signal
from skipway.study.ways import Ways, ways

__all__ = ["Comparison", "Paths", "Run", "Signal", "Ways", "compare", "paths", "signal", "ways"]
