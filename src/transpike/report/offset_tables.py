"""Tables of offset spikes (COS paper, figures 1 to 4, Table 3 and appendix A.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from transpike.evaluation.offsets import CaseExample, Offsets, ShiftCase, running_times
from transpike.evaluation.report import Report
from transpike.report.layout import plain_table

_NAMED = 3  # psi beyond this share two columns


def offsets_table(offsets: Offsets) -> Table:
    """The distribution of psi at every site, in percent of its neurons; `exact` is psi = 0."""
    within = "its input taken as right" if offsets.constrained else "the network as it runs"
    rho = offsets.sites[0].probe_steps
    named = range(-min(_NAMED, rho), min(_NAMED, rho) + 1)
    far = rho > _NAMED
    heads = [f"{value:+d}" if value else "exact" for value in named]
    if far:
        heads = [f"< {named[0]}", *heads, f"> +{named[-1]}"]
    title = f"offset spikes in % of neurons, {offsets.label}, {rho} steps, {within}"
    table = plain_table(title, "site", *heads, "MSE", "right inputs")
    for site in offsets.sites:
        shares = [site.share(value) for value in named]
        if far:
            below = sum(site.share(value) for value in site.offsets if value < named[0])
            above = sum(site.share(value) for value in site.offsets if value > named[-1])
            shares = [below, *shares, above]
        cells = [_percent(share) for share in shares]
        table.add_row(site.site, *cells, f"{site.mse:.4f}", f"{100 * site.right_inputs:.2f}")
    return table


def convergence_table(free: Mapping[str, Offsets], constrained: Mapping[str, Offsets]) -> Table:
    """Ratio of exact outputs and MSE by COS iteration: Table 3, and the last row of Table S2."""
    first = next(iter(free.values()))
    last = first.sites[-1].site
    title = (
        f"output layer {last} after {first.sites[-1].probe_steps} steps; ratio: neurons with psi = 0; MSE: mean psi^2"
    )
    heads = ("ratio %", "MSE", "MSE of answer", "lowest ratio of a site %", "the same, input right %")
    table = plain_table(title, "schedule", *heads)
    for label, offsets in free.items():
        answer = "-" if offsets.answer_mse is None else f"{offsets.answer_mse:.3g}"
        table.add_row(
            label,
            _percent(offsets.sites[-1].exact),
            f"{offsets.sites[-1].mse:.4f}",
            answer,
            _percent(min(site.exact for site in offsets.sites)),
            _percent(min(site.exact for site in constrained[label].sites)),
        )
    return table


def cases_table(cases: Mapping[ShiftCase, CaseExample | None]) -> Table:
    """A neuron of the network for each case of figure 2."""
    table = plain_table(
        "four cases of a shift", "case", "site", "sample, neuron", "wanted", "spikes", "shift / theta", "after"
    )
    for case, found in cases.items():
        if found is None:
            table.add_row(case.value, "does not occur in this data", "", "", "", "", "")
            continue
        shift = (found.after.potentials[0] - found.before.potentials[0]) / found.theta
        neuron = ",".join(str(index) for index in found.neuron)
        before, after = (f"{run.count} ({_train(run.spikes)})" for run in (found.before, found.after))
        place = f"{found.sample}: {neuron}"
        table.add_row(case.value, found.site, place, str(found.wanted), before, f"{shift:+.3f}", after)
    return table


def influence_table(reports: Mapping[int, Report]) -> Table:
    """Top-1 accuracy of COS by rho: figure 4."""
    first = next(iter(reports.values()))
    title = f"COS, top-1 accuracy in % by probe length, {first.images:,} images, ANN {first.ann_top1:.2f}"
    table = plain_table(title, "rho", *(f"T={row.steps}" for row in first.rows))
    for rho, report in reports.items():
        table.add_row(str(rho), *(f"{row.top1:.2f}" for row in report.rows))
    return table


def running_table(reports: Mapping[str, Report]) -> Table:
    """Wall time of plain, lightweight (residual) and COS at the same T: appendix A.5."""
    first = next(iter(reports.values()))
    title = f"running time, T = {first.rows[-1].steps}, {first.images:,} images, {first.dtype} on {first.device}"
    table = plain_table(title, "schedule", "ms/image", "to plain", "top-1 %")
    times = running_times(reports)
    for label, report in reports.items():
        ratio = times[label] / times["plain"]
        table.add_row(label, f"{1000 * times[label]:.2f}", f"{ratio:.2f}", f"{report.rows[-1].top1:.2f}")
    return table


def _percent(share: float) -> str:
    """Two decimals; a share that is neither 0 nor 1 never reads 0.00 or 100.00."""
    text = f"{100 * share:.2f}"
    if share > 0 and text == "0.00":
        return "<0.01"
    return ">99.99" if share < 1 and text == "100.00" else text


def _train(spikes: Sequence[int]) -> str:
    return "".join(str(spike) for spike in spikes)
