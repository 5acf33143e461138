"""Studies: what shortcuts do, measured."""

from skipway.study.compare import compare
from skipway.study.comparison import Comparison, Run
from skipway.study.landscape import Landscape, landscape
from skipway.study.lesion import Lesion, lesion
from skipway.study.paths import Paths, paths
from skipway.study.shatter import Shatter, shatter
from skipway.study.signal import Signal, signal
from skipway.study.ways import Ways, ways

__all__ = [
    "Comparison", "Landscape", "Lesion", "Paths", "Run", "Shatter", "Signal", "Ways", "compare", "landscape", "lesion",
    "paths", "shatter", "signal", "ways",
]  # fmt: skip
