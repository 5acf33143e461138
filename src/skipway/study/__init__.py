"""Studies: what shortcuts do, measured."""

from skipway.study.compare import compare
from skipway.study.comparison import Comparison, Run
from skipway.study.controls import Controls, controls
from skipway.study.flow import Flow, Track
from skipway.study.interval import Interval, interval
from skipway.study.jacobian import Jacobian, Spectrum, jacobian
from skipway.study.landscape import Landscape, landscape
from skipway.study.lesion import Lesion, lesion
from skipway.study.paths import Paths, paths
from skipway.study.shatter import Shatter, shatter
from skipway.study.signal import Signal, signal
from skipway.study.sweep import Sweep, sweep
from skipway.study.telemetry import GradientFlow, gradient_flow
from skipway.study.ways import Ways, ways

__all__ = [
    "Comparison", "Controls", "Flow", "GradientFlow", "Interval", "Jacobian", "Landscape", "Lesion", "Paths", "Run",
    "Shatter", "Signal", "Spectrum", "Sweep", "Track", "Ways", "compare", "controls", "gradient_flow", "interval",
    "jacobian", "landscape", "lesion", "paths", "shatter", "signal", "sweep", "ways",
]  # fmt: skip
