"""Studies: what shortcuts do, measured."""

from skipway.study.compare import compare
from skipway.study.comparison import Comparison, Run
from skipway.study.jacobian import Jacobian, Spectrum, jacobian
from skipway.study.landscape import Landscape, landscape
from skipway.study.lesion import Lesion, lesion
from skipway.study.paths import Paths, paths
from skipway.study.shatter import Shatter, shatter
from skipway.study.signal import Signal, signal
from skipway.study.ways import Ways, ways

__all__ = [
    "Comparison", "Jacobian", "Landscape", "Lesion", "Paths", "Run", "Shatter", "Signal", "Spectrum", "Ways",
    "compare", "jacobian", "landscape", "lesion", "paths", "shatter", "signal", "ways",
]  # fmt: skip
