"""Studies: what shortcuts do, measured."""

from skipway.study.compare import compare
from skipway.study.comparison import Comparison, Run
from skipway.study.ways import Ways, ways

__all__ = ["Comparison", "Run", "Ways", "compare", "ways"]
