"""The calibration sweeps. Know no paper: they feed statistics and stages, and let methods decide."""

from transpike.calibration.blocks import find_blocks, visit_blocks
from transpike.calibration.stagewise import visit_stages
from transpike.calibration.sweep import CalibrationData, calibrate_thresholds, sweep

__all__ = ["CalibrationData", "calibrate_thresholds", "find_blocks", "sweep", "visit_blocks", "visit_stages"]
