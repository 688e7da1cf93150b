"""Tables for the terminal and plots for people."""

from transpike.report.plots import plot_accuracy, plot_latency
from transpike.report.tables import (
    comparison_table,
    inspection_table,
    report_table,
    schedules_table,
    sites_table,
    training_table,
)

__all__ = [
    "comparison_table",
    "inspection_table",
    "plot_accuracy",
    "plot_latency",
    "report_table",
    "schedules_table",
    "sites_table",
    "training_table",
]
