"""Tables for the terminal and plots for people."""

from transpike.report.activation_plots import mean_error, plot_activations
from transpike.report.chart_figures import chart_figure, study_figures
from transpike.report.charts import Chart, study_charts
from transpike.report.error_plots import plot_causes
from transpike.report.error_tables import bounds_table, causes_table, error_advice, objective_table
from transpike.report.layout import plain_table
from transpike.report.methods import choice_table, methods_table
from transpike.report.offset_plots import plot_cases, plot_convergence, plot_influence, plot_offsets
from transpike.report.offset_tables import (
    cases_table,
    convergence_table,
    influence_table,
    offsets_table,
    running_table,
)
from transpike.report.page import check_page_path, need_page_libraries, study_page, write_page
from transpike.report.plots import plot_accuracy, plot_latency
from transpike.report.study_tables import study_frames, study_tables
from transpike.report.sweep_plots import plot_criterion, plot_shifts, plot_slopes, plot_sweep
from transpike.report.sweep_tables import choice_table as sweep_choice_table
from transpike.report.sweep_tables import sweep_notes, sweep_tables
from transpike.report.tables import (
    LATENCY_CAPTION,
    card_table,
    inspection_table,
    learned_table,
    models_table,
    recipes_table,
    record_offsets_table,
    record_table,
    report_table,
    schedules_table,
    sites_table,
    trained_table,
    training_table,
)
from transpike.report.target_tables import target_table

__all__ = [
    "LATENCY_CAPTION",
    "Chart",
    "bounds_table",
    "card_table",
    "cases_table",
    "causes_table",
    "chart_figure",
    "check_page_path",
    "choice_table",
    "convergence_table",
    "error_advice",
    "influence_table",
    "inspection_table",
    "learned_table",
    "mean_error",
    "methods_table",
    "models_table",
    "need_page_libraries",
    "objective_table",
    "offsets_table",
    "plain_table",
    "plot_accuracy",
    "plot_activations",
    "plot_cases",
    "plot_causes",
    "plot_convergence",
    "plot_criterion",
    "plot_influence",
    "plot_latency",
    "plot_offsets",
    "plot_shifts",
    "plot_slopes",
    "plot_sweep",
    "recipes_table",
    "record_offsets_table",
    "record_table",
    "report_table",
    "running_table",
    "schedules_table",
    "sites_table",
    "study_charts",
    "study_figures",
    "study_frames",
    "study_page",
    "study_tables",
    "sweep_choice_table",
    "sweep_notes",
    "sweep_tables",
    "target_table",
    "trained_table",
    "training_table",
    "write_page",
]
