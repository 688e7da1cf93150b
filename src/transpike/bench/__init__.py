"""How fast a converted network is on this machine, and how far from what the machine could do at most."""

from transpike.bench.compare import Baseline, BenchError, BenchReport, Gate, Measurement, anns, bench, check, pass_gate
from transpike.bench.limits import Peaks, count_additions, measure_peaks
from transpike.bench.stages import StageCost, StageCosts, cost_stages
from transpike.bench.sweep import Line, Sweep, SweepPoint, random_map, sweep
from transpike.bench.timing import fastest

__all__ = [
    "Baseline",
    "BenchError",
    "BenchReport",
    "Gate",
    "Line",
    "Measurement",
    "Peaks",
    "StageCost",
    "StageCosts",
    "Sweep",
    "SweepPoint",
    "anns",
    "bench",
    "check",
    "cost_stages",
    "count_additions",
    "fastest",
    "measure_peaks",
    "pass_gate",
    "random_map",
    "sweep",
]
