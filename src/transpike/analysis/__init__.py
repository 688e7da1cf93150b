"""What a conversion cost, and why."""

from transpike.analysis.convergence import site_errors
from transpike.analysis.offset_cases import CaseExample, ShiftCase, Trajectory, find_cases
from transpike.analysis.offset_spikes import Offsets, SiteOffsets, iterated_schedules, offset_spikes
from transpike.analysis.offset_study import OffsetSettings, OffsetStudy, running_times, study_offsets

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
