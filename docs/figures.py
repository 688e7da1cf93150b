"""Pictures of the documentation, each for light and for dark pages.

    python docs/figures.py FOLDER [NAME ...]

Concepts are simulated with `transpike.kernels.reference`; curves of accuracy are read from `results/`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parent))

from records import Line, found, raw
from result_tables import CODES, PRETRAINED, SCHEDULES, SCHEDULES_DIGITS


@dataclass(frozen=True)
class Theme:
    """Colours on light or on dark pages."""

    text: str
    soft: str
    colours: tuple[str, ...]


THEMES: Mapping[str, Theme] = {
    "light": Theme("#24292f", "#8c959f", ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#0f766e", "#a16207")),
    "dark": Theme("#d6dae0", "#7d8590", ("#5cc1ee", "#fb923c", "#a3d65c", "#c89bff", "#ff7b7b", "#4fd1c0", "#e3b341")),
}


@contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Transparent pictures with text as paths."""
    settings = {
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "transpike",
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.soft,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.transparent": True,
        "legend.frameon": False,
        "axes.prop_cycle": mpl.cycler(color=theme.colours),
    }
    with mpl.rc_context(settings):
        yield


def integrate(drive: np.ndarray, theta: float = 1.0, v: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Potentials after each step and spikes of one neuron, soft reset: `transpike.kernels.reference` for one neuron."""
    potentials, spikes = [], []
    for current in drive:
        u = v + current
        fired = u >= theta
        v = u - theta * fired
        potentials.append(v)
        spikes.append(bool(fired))
    return np.array(potentials), np.array(spikes)


# ---- concepts --------------------------------------------------------------------------------------------------------


def site(theme: Theme) -> Figure:
    """A neuron under a constant drive."""
    drive = np.full(8, 0.4)
    after, spikes = integrate(drive)
    steps = np.arange(1, 9)
    before = np.concatenate([[0.5], after[:-1]]) + drive
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(6.6, 3.6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    times, values = [0.0], [0.5]
    for t, u, v in zip(steps, before, after, strict=True):
        times += [t, t]
        values += [u, v]
    top.plot(times, values, color=theme.colours[0], lw=2)
    top.plot([0, 8], [1, 1], color=theme.colours[1], lw=1.5, ls="--")
    top.text(8.15, 1.0, "threshold θ", color=theme.colours[1], va="center")
    top.text(8.15, after[-1], "potential v", color=theme.colours[0], va="center")
    top.annotate("v_init = θ/2", (0, 0.5), (0.25, 0.12), arrowprops={"arrowstyle": "->", "color": theme.soft})
    at = int(np.flatnonzero(spikes)[0]) + 1
    top.annotate(
        "fires, θ is\nsubtracted", (at, 0.6), (at + 0.25, 0.02), arrowprops={"arrowstyle": "->", "color": theme.soft}
    )
    top.set(ylabel="potential", ylim=(-0.15, 1.5), yticks=(0, 0.5, 1), yticklabels=("0", "θ/2", "θ"))
    bottom.vlines(steps[spikes], 0, 1, color=theme.colours[2], lw=3)
    bottom.text(8.15, 0.5, f"events: {spikes.sum()} in 8 steps", color=theme.colours[2], va="center")
    bottom.set(xlabel="time-step t, drive 0.4 θ at every step", yticks=(), ylim=(0, 1.1), xlim=(0, 10.6), xticks=steps)
    bottom.spines["left"].set_visible(False)
    return figure


def staircase(theme: Theme) -> Figure:
    """Mean output after T steps against the drive."""
    z = np.linspace(-0.25, 1.35, 1601)
    figure, axes = plt.subplots(1, 3, figsize=(7.6, 2.7), sharey=True, layout="constrained")
    for axis, (steps, start) in zip(axes, ((4, 0.0), (4, 0.5), (16, 0.5)), strict=True):
        mean = np.array([integrate(np.full(steps, value), v=start)[1].mean() for value in z])
        axis.plot(z, np.maximum(z, 0), color=theme.soft, lw=1.5)
        axis.plot(z, mean, color=theme.colours[0], lw=2)
        axis.set_title(f"T = {steps}, v_init = {'θ/2' if start else '0'}", fontsize=10, color=theme.text)
        axis.set(xlabel="drive z", xticks=(0, 1), xticklabels=("0", "θ"), yticks=(0, 1), yticklabels=("0", "θ"))
        axis.set_ylim(-0.08, 1.3)
    axes[0].set_ylabel("mean output")
    axes[0].text(0.93, 1.17, "ReLU", color=theme.soft, ha="right")
    axes[0].text(1.32, 0.82, "neuron", color=theme.colours[0], ha="right")
    return figure


def _schedule_rows(name: str) -> tuple[list[tuple[int, int, str]], int]:
    """Per layer the busy spans ``(begin, length, kind)`` of four layers, and the step of the answer; T = rho = 4."""
    rows: list[tuple[int, int, str]] = []
    for layer in range(4):
        if name == "plain":
            rows.append((0, 4, f"{layer}:send"))
        elif name == "staggered":
            begin = max(0, layer - 1)
            rows += [(begin, 1, f"{layer}:wait")] * (layer in (1, 2))
            rows.append((begin + (layer in (1, 2)), 6 - begin - (layer in (1, 2)) if layer < 2 else 4, f"{layer}:send"))
        else:
            rows += [(4 * layer, 4, f"{layer}:probe"), (4 * layer + 4, 4, f"{layer}:send")]
    return rows, max(begin + length for begin, length, _ in rows)


def schedule(theme: Theme) -> Figure:
    """Who is busy when, under three schedules."""
    figure, axes = plt.subplots(3, 1, figsize=(7.2, 5.2), sharex=True, layout="constrained")
    kinds = {"wait": theme.soft, "probe": theme.colours[1], "send": theme.colours[0]}
    titles = {
        "plain": "plain: all layers step together",
        "staggered": "staggered: two layers hold their first step back",
        "layer": "layer after layer (cos, exact, accumulate): look for ρ = 4 steps, then send",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        rows, end = _schedule_rows(name)
        _spans(axis, rows, kinds)
        axis.axvline(end, color=theme.text, lw=1, ls=":")
        axis.text(end + 0.2, 3.3, f"answer: pipeline latency {end}", va="center", fontsize=9)
        axis.set_title(title, loc="left", fontsize=10, color=theme.text)
    axes[-1].set_xlabel("time-step on a device that steps all layers at once")
    handles = [Patch(color=colour, label=label) for label, colour in kinds.items()]
    axes[0].legend(handles=handles, loc="upper right", ncols=3, fontsize=9)
    return figure


def _spans(axis: Axes, rows: list[tuple[int, int, str]], kinds: Mapping[str, str]) -> None:
    for begin, length, kind in rows:
        layer, what = kind.split(":")
        axis.add_patch(Rectangle((begin + 0.04, int(layer) - 0.36), length - 0.08, 0.72, color=kinds[what], lw=0))
    axis.set(xlim=(0, 26), ylim=(3.6, -0.6), yticks=range(4), yticklabels=[f"layer {layer + 1}" for layer in range(4)])
    axis.set_xticks(range(0, 21, 4))


def latencies(theme: Theme) -> Figure:
    """The four ways to count, on one layer-after-layer run."""
    figure, axis = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    rows, end = _schedule_rows("layer")
    _spans(axis, rows, {"probe": theme.colours[1], "send": theme.colours[0]})
    marks = (
        ("answer: T = 4", 16, 20, 4.05, 0),
        ("interval: ρ + T = 8", 12, 20, 4.85, 2),
        ("claimed by papers: ρ + T = 8", 0, 8, 4.85, 1),
        ("pipeline: 4 ρ + T = 20", 0, 20, 5.65, 3),
    )
    for text, begin, finish, height, colour in marks:
        tint = theme.colours[colour]
        axis.annotate("", (begin, height), (finish, height), arrowprops={"arrowstyle": "<->", "color": tint, "lw": 1.5})
        x = finish + 0.25 if finish == end else (begin + finish) / 2
        axis.text(
            x,
            height + (0 if finish == end else -0.12),
            text,
            color=tint,
            fontsize=9,
            va="center" if finish == end else "bottom",
            ha="left" if finish == end else "center",
        )
    axis.set(ylim=(6.0, -0.6), xlim=(0, 26), xlabel="time-step")
    return figure


def offset(theme: Theme) -> Figure:
    """The same sum, two orders of arrival, two counts."""
    even, early, late = np.full(4, 0.5), np.array([1.6, 1.4, 0.2, -1.2]), np.array([0.0, 0.0, 0.2, 1.8])
    figure, axes = plt.subplots(1, 3, figsize=(7.6, 2.9), sharey=True, layout="constrained")
    for axis, (title, drive) in zip(axes, (("even", even), ("early", early), ("late", late)), strict=True):
        after, spikes = integrate(drive)
        steps = np.arange(1, 5)
        axis.bar(steps, drive, width=0.5, color=theme.soft, alpha=0.6)
        axis.plot(np.arange(5), [0.5, *after], "o-", color=theme.colours[0], lw=2, ms=4)
        axis.vlines(steps[spikes], 2.0, 2.4, color=theme.colours[2], lw=4)
        wanted = int(np.clip(np.floor(0.5 + drive.sum()), 0, 4))
        count = int(spikes.sum())
        axis.set_title(
            f"{title}: sum {drive.sum():.1f} θ, {count} sent, offset {wanted - count or 0:{'+' if wanted != count else ''}d}",
            fontsize=9,
            color=theme.text,
        )
        axis.axhline(1, color=theme.colours[1], lw=1, ls="--")
        axis.set(xlabel="time-step", xticks=steps, ylim=(-1.4, 2.5), yticks=(-1, 0, 1), yticklabels=("-θ", "0", "θ"))
    axes[0].text(0.0, 2.15, "spikes", color=theme.colours[2], fontsize=9)
    axes[0].text(2.2, -0.1, "potential", color=theme.colours[0], fontsize=9, va="top")
    return figure


# ---- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Accuracy at pipeline latencies, and where its name stands: nudged by so many points."""

    name: str
    latency: list[int]
    top1: list[float]
    nudge: tuple[float, float] = (6, 0)
    align: str = "left"


def _curve(
    lines: list[Line], name: str, nudge: tuple[float, float], align: str = "left", at: tuple[int, ...] = ()
) -> Curve:
    """Rows of a record as one curve, at all T or at some."""
    points = [(line.pipeline[t], line.top1[t]) for line in lines for t in line.top1 if t in at or not at]
    return Curve(name, [x for x, _ in points], [y for _, y in points], nudge, align)


def _ends(lines: list[Line], name: str, nudge: tuple[float, float]) -> Curve:
    """The longest run of each row, by latency."""
    points = sorted((line.pipeline[max(line.top1)], line.top1[max(line.top1)]) for line in lines)
    return Curve(name, [x for x, _ in points], [y for _, y in points], nudge)


def _draw(axis: Axes, curves: list[Curve], theme: Theme, ann: float) -> None:
    axis.axhline(ann, color=theme.soft, lw=1, ls="--")
    for number, curve in enumerate(curves):
        colour = theme.colours[number % len(theme.colours)]
        axis.plot(curve.latency, curve.top1, "o-", color=colour, ms=4, lw=1.8, clip_on=False)
        axis.annotate(
            curve.name,
            (curve.latency[-1], curve.top1[-1]),
            curve.nudge,
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            ha=curve.align,
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set(xlabel="pipeline latency: time-steps from the input to the answer", ylabel="top-1 accuracy in %")
    axis.set_ylim(bottom=min(min(curve.top1) for curve in curves) - 2, top=ann + 3)


def accuracy_latency(theme: Theme) -> Figure:
    """Conversion of the pretrained ResNet-20 without retraining."""
    lines = found(PRETRAINED).of("all")
    ann = next(iter(lines.values())).ann

    def method(name: str, shown: str, nudge: tuple[float, float], align: str = "left") -> Curve:
        rows = [row for row in raw(f"methods/cifar-resnet20/{name}.json")["rows"] if row["steps"] <= 8]
        return Curve(shown, [r["latency"]["pipeline_steps"] for r in rows], [r["top1"] for r in rows], nudge, align)

    def pretrained(label: str, shown: str, nudge: tuple[float, float]) -> Curve:
        return _curve([lines[label]], shown, nudge, "right", at=(1,))

    codes = found(CODES).of("all")

    curves = [
        _ends([line for label, line in codes.items() if label.startswith("digits")], "signed digits", (8, -9)),
        _curve([codes["radix, T = 4"]], "radix", (6, -10), at=(4,)),
        method("opi", "99.9 percentile", (6, 0)),
        method("snnc-light-bias", "least squares", (6, -4)),
        method("snm", "signed spikes", (6, -10)),
        method("withhold", "one step withheld", (6, -14)),
        method("accumulate", "accumulate, ρ = T = 1, 2, 4, 8", (-70, -42)),
        pretrained(
            "accumulate, rho = 8, thresholds and biases trained",
            "accumulate, ρ = 8, trained thresholds",
            (70, 13),
        ),
    ]
    figure, axis = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    _draw(axis, curves, theme, ann)
    axis.set_xlim(1, 400)
    axis.set_xticks((1, 2, 4, 8, 16, 32, 64, 128, 256))
    axis.text(1.05, ann + 0.6, f"ANN {ann:.2f} %", color=theme.soft, va="bottom", fontsize=9)
    axis.set_ylim(top=ann + 7)
    return figure


def schedules_latency(theme: Theme) -> Figure:
    """The QCFS network under every schedule."""
    lines, codes = found(SCHEDULES).of("0"), found(SCHEDULES_DIGITS).of("0")
    ann = lines["plain"].ann

    def run(names: tuple[str, ...], shown: str, nudge: tuple[float, float], align: str = "left") -> Curve:
        return _curve([lines[name] for name in names], shown, nudge, align)

    curves = [
        run(("plain",), "plain", (6, -8)),
        run(("staggered:budget=2", "staggered:budget=4"), "staggered, searched lags", (-8, 8), "right"),
        run(("srp",), "srp", (6, 0)),
        run(("residual",), "residual", (8, -6)),
        run(("cos",), "cos", (8, 6)),
        run(("accumulate",), "accumulate", (-14, -8), "right"),
        _ends([line for label, line in codes.items() if label.startswith("digits")], "signed digits", (8, 6)),
        _curve([codes["radix:digits=4"]], "radix", (-8, 6), "right", at=(1, 2, 3, 4)),
    ]
    figure, axis = plt.subplots(figsize=(8.2, 4.2), layout="constrained")
    _draw(axis, curves, theme, ann)
    axis.set_xlim(1, 160)
    axis.set_xticks((1, 2, 4, 8, 16, 32, 64, 128))
    axis.text(1.05, ann + 0.4, f"ANN {ann:.2f} %", color=theme.soft, va="bottom", fontsize=9)
    return figure


def layer_time(theme: Theme) -> Figure:
    """Time of single layers against the firing rate of their input."""
    layers = raw("engine-layers.json")["layers"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.6), sharey=True, layout="constrained")
    for axis, key, x, label in (
        (left, "by_rate", "rate", "share of inputs that spike in a step, T = 4"),
        (right, "by_steps", "steps", "T"),
    ):
        groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for row in layers[key]:
            groups.setdefault((row["channels"], row["size"]), []).append((row[x], row["ratio"]))
        for number, ((channels, size), points) in enumerate(sorted(groups.items())):
            points.sort()
            axis.plot(
                *zip(*points, strict=True),
                color=theme.colours[number % 7],
                lw=1.6,
                marker="o",
                ms=3,
                label=f"{channels} channels, {size} x {size}",
                alpha=1 if number < 7 else 0.6,
            )
        axis.axhline(1, color=theme.soft, lw=1, ls="--")
        axis.set_xlabel(label)
    left.set_ylabel("time, dense pass of the ANN = 1")
    left.set_ylim(0, 3)
    left.text(0.99, 1.03, "ANN", color=theme.soft, transform=left.get_yaxis_transform(), ha="right")
    right.legend(fontsize=7, ncols=2, loc="upper left")
    return figure


FIGURES: Mapping[str, Callable[[Theme], Figure]] = {
    "site": site,
    "staircase": staircase,
    "schedule": schedule,
    "latencies": latencies,
    "offset": offset,
    "accuracy-latency": accuracy_latency,
    "schedules-latency": schedules_latency,
    "layer-time": layer_time,
}


def write_all(folder: Path, names: tuple[str, ...] = tuple(FIGURES)) -> None:
    """Writes ``NAME-light.svg`` and ``NAME-dark.svg``; what has not changed keeps its time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for kind, theme in THEMES.items():
            with style(theme):
                figure = FIGURES[name](theme)
                file = folder / f"{name}-{kind}.svg"
                fresh = file.with_suffix(".new")
                figure.savefig(fresh, format="svg", metadata={"Date": None})
                plt.close(figure)
            if file.exists() and file.read_bytes() == fresh.read_bytes():
                fresh.unlink()
            else:
                fresh.replace(file)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), tuple(sys.argv[2:]) or tuple(FIGURES))
