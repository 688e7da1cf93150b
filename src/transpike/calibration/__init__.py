"""The calibration sweep. Knows no paper: it feeds statistics and lets rules decide."""

from transpike.calibration.sweep import CalibrationData, calibrate_thresholds, sweep

__all__ = ["CalibrationData", "calibrate_thresholds", "sweep"]
