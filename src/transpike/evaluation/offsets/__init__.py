"""What a conversion cost, and why."""

from transpike.evaluation.offsets.cases import CaseExample, ShiftCase, Trajectory, find_cases
from transpike.evaluation.offsets.convergence import site_errors
from transpike.evaluation.offsets.spikes import Offsets, SiteOffsets, iterated_schedules, offset_spikes
from transpike.evaluation.offsets.study import OffsetSettings, OffsetStudy, running_times, study_offsets

__all__ = [
    "CaseExample",
    "OffsetSettings",
    "OffsetStudy",
    "Offsets",
    "ShiftCase",
    "SiteOffsets",
    "Trajectory",
    "find_cases",
    "iterated_schedules",
    "offset_spikes",
    "running_times",
    "site_errors",
    "study_offsets",
]
