"""Charts as Matplotlib figures, and as figures of Plotly."""

from __future__ import annotations

from typing import Any

from transpike.errors import needs_extra
from transpike.experiments.study import Study
from transpike.report.charts import Chart, Mark, Series, study_charts

_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8f7700", "#8c8c8c", "#000000")
"""Okabe and Ito's colours, which readers with any colour vision tell apart; grey and black are for references."""
_MARKERS = "os^Dv*P<X>"
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "star", "cross", "triangle-left", "x")
_DASHES = ("solid", "dash", "dashdot", "dot")
_STYLES = ("-", "--", "-.", ":")
_BLACK = 8


def study_figures(study: Study) -> dict[str, Any]:
    """Every chart of a study as a Matplotlib figure, by name; of several views the first."""
    return {name: chart_figure(chart) for name, chart in study_charts(study).items()}


def chart_figure(chart: Chart, view: str | None = None) -> Any:
    """A chart as a Matplotlib ``Figure``.

    Args:
        chart: what to draw.
        view: which view; None is the first.

    Raises:
        KeyError: there is no such view.
    """
    with needs_extra("plots", "a figure"):
        from matplotlib.figure import Figure

    series = chart.views[next(iter(chart.views)) if view is None else view]
    categories = isinstance(series[0].x[0], str)
    width = max(7.0, 2.5 + 0.36 * len(series[0].x)) if categories else 7.0
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    axes = figure.subplots()
    bars = [each for each in series if each.mark is Mark.BAR]
    below = [0.0] * len(bars[0].x) if bars else []
    for each in series:
        if each.mark is Mark.BAR:
            below = _draw_bars(axes, each, bars, below, stacked=chart.stacked)
        else:
            _draw_points(axes, each)
    for number, (name, value) in enumerate(chart.levels.items()):
        axes.axhline(value, color="black", linewidth=1, linestyle=_STYLES[1 + number % 3], label=name)
    if categories:
        axes.set_xticks(range(len(series[0].x)), [str(x) for x in series[0].x], rotation=60, ha="right", fontsize=8)
    elif chart.log_x:
        seen = {int(x) for each in series for x in each.x if not isinstance(x, str)}
        ticks = [2**k for k in range(21) if min(seen) <= 2**k <= max(seen)]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    return figure


def _draw_bars(axes: Any, each: Series, bars: list[Series], below: list[float], *, stacked: bool) -> list[float]:
    """Draws bars and returns where the next ones stand."""
    places = range(len(each.x)) if isinstance(each.x[0], str) else each.x
    width = 0.8 if stacked else 0.8 / len(bars)
    shift = 0.0 if stacked else (bars.index(each) - (len(bars) - 1) / 2) * width
    at = [float(place) + shift for place in places]
    axes.bar(at, each.y, width, bottom=below if stacked else None, color=_PALETTE[each.colour], label=each.name)
    return [low + size for low, size in zip(below, each.y, strict=True)] if stacked else below


def _draw_points(axes: Any, each: Series) -> None:
    places = range(len(each.x)) if isinstance(each.x[0], str) else each.x
    axes.plot(
        list(places),
        each.y,
        color=_PALETTE[each.colour % len(_PALETTE)],
        marker=_MARKERS[each.colour % len(_MARKERS)],
        linestyle=_STYLES[each.colour % len(_STYLES)] if each.mark is Mark.LINE else "none",
        label=each.name,
    )


def plotly_figure(chart: Chart) -> dict[str, Any]:
    """A chart as JSON values: ``views``, the traces of each by name, and ``layout``, both in Plotly's terms.

    Colours are left to the page, which knows whether it is dark: ``meta.colour`` is their number in the palette.
    """
    first = next(iter(chart.views.values()))
    categories = isinstance(first[0].x[0], str)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": chart.x_title}, "automargin": True},
        "yaxis": {"title": {"text": chart.y_title}, "automargin": True},
        "barmode": "stack" if chart.stacked else "group",
        "showlegend": len(first) + len(chart.levels) > 1,
    }
    numbers = [float(x) for series in chart.views.values() for each in series for x in each.x if not isinstance(x, str)]
    if categories:
        layout["xaxis"] |= {"type": "category", "tickangle": -60}
    elif chart.log_x:
        ticks = sorted({2**k for k in range(21) if min(numbers) <= 2**k <= max(numbers)} | {int(min(numbers))})
        layout["xaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
    elif first[0].mark is Mark.BAR:
        layout["xaxis"] |= {"dtick": max(1, round((max(numbers) - min(numbers)) / 16))}
    else:
        layout["xaxis"] |= {"rangemode": "tozero"}
    span = [min(numbers), max(numbers)] if numbers else []
    return {
        "name": chart.name,
        "views": {
            view: [
                *map(_trace, series),
                *(_level(*each, number, span) for number, each in enumerate(chart.levels.items())),
            ]
            for view, series in chart.views.items()
        },
        "layout": layout,
    }


def _trace(each: Series) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "name": each.name,
        "x": list(each.x),
        "y": [round(value, 5) for value in each.y],
        "meta": {"colour": each.colour},
    }
    trace |= {"text": list(each.texts)} if each.texts else {}
    hover = "%{x}: %{y:.4~g}<br>%{text}" if each.texts else "%{x}: %{y:.4~g}"
    trace |= {"hovertemplate": hover}
    if each.mark is Mark.BAR:
        return trace | {"type": "bar", "textposition": "none"}
    symbol = {"size": 8, "symbol": _SYMBOLS[each.colour % len(_SYMBOLS)]}
    if each.mark is Mark.POINT:
        symbol = {"size": 11, "symbol": "line-ew-open" if isinstance(each.x[0], str) else symbol["symbol"]}
        return trace | {"type": "scatter", "mode": "markers", "marker": symbol}
    line = {"width": 2, "dash": _DASHES[each.colour % len(_DASHES)]}
    return trace | {"type": "scatter", "mode": "lines+markers", "marker": symbol, "line": line}


def _level(name: str, value: float, number: int, span: list[float]) -> dict[str, Any]:
    dash = ("dash", "dot", "dashdot", "longdash")[number % 4]
    return {
        "name": f"{name} ({value:.2f})",
        "x": span,
        "y": [value, value],
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 1.5, "dash": dash},
        "meta": {"colour": _BLACK},
        "hovertemplate": "%{y:.2f}",
    }
