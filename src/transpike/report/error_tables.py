"""Tables of the causes of error."""

from __future__ import annotations

from rich.table import Table

from transpike.activations import SlipActivation
from transpike.evaluation.causes import CAUSES, ErrorCauses
from transpike.functional import uniform_error
from transpike.network.spiking import SpikingNetwork
from transpike.report.layout import plain_table

_WORST = 3
"""Sites with advice."""
_NEGLIGIBLE = 0.01
"""Of the mean activation: no advice about less."""

_ADVICE = {
    "clipping": "its threshold is low: a higher percentile, the maximum, or one threshold per channel",
    "quantisation": "its steps are coarse: more time-steps or digits, thresholds per channel or of least error "
    "(minimum-mse), a bias correction; of rates also v(0) of half a threshold",
    "unevenness": "its input comes unevenly: a schedule that looks before it sends (cos, accumulate), or a lag "
    "(staggered); of digits another lag, or a smaller base",
}


def causes_table(causes: ErrorCauses) -> Table:
    """Every site: its error in percent of its mean activation, and the share of each cause in the squared error."""
    table = plain_table(
        f"error by cause, T = {causes.steps}, {causes.schedule}, {causes.images:,} images; error, and what conversion "
        "adds here (own): % of the mean ReLU value; causes: % of the squared error",
        *("site", "error", "own"),
        *CAUSES,
        *("full %", "silent %"),
    )
    table.columns[0].no_wrap = True
    for site in causes.sites:
        shares = [f"{100 * site.cause(name).share:.0f}" for name in CAUSES]
        table.add_row(
            site.site,
            *(_percent(value, site.scale) for value in (site.error, site.own)),
            *shares,
            f"{100 * site.saturated:.1f}",
            f"{100 * site.silent:.1f}",
        )
    return table


def objective_table(causes: ErrorCauses, weight: float) -> Table:
    """The unified objective of SlipReLU of every site and of the answer: ``w E|ReLU - ANN| + (1 - w) E|ANN - SNN|``."""
    table = plain_table(
        f"unified objective, w = {weight:g}",
        *("site", "E|ReLU - ANN|", "E|ANN - SNN|", "objective"),
    )
    for site in causes.sites:
        halves = (site.deviation.size, site.conversion, site.objective(weight))
        table.add_row(site.site, *(f"{value:.4g}" for value in halves))
    whole = (causes.deviation, causes.conversion, causes.objective(weight))
    table.add_row("answer", *(f"{value:.4g}" for value in whole))
    return table


def bounds_table(snn: SpikingNetwork, causes: ErrorCauses) -> Table | None:
    """What the papers say of each site trained with SlipReLU, beside what was measured.

    SlipReLU's Theorem 2 gives ``c theta / (4 T)`` as the mean of |ANN - SNN| for a drive that is uniform in [0, theta]
    and the same at every step. It does not contain N: `transpike.functional.uniform_error` has the exact mean. What is
    measured is the mean over all real drives, many of which are negative (quantisation). COS counts what comes unevenly
    in offset spikes: so many too many or too few, on the average, of T. None without such sites, and for digits.
    """
    trained = {site.name: snn.site(site.name).activation for site in snn.sites}
    slips = {name: module for name, module in trained.items() if isinstance(module, SlipActivation)}
    if not slips or causes.digits:
        return None
    table = plain_table(
        f"bounds, T = {causes.steps}: mean |ANN - SNN| of a drive that is the same at every step, in units of theta",
        *("site", "N", "c", "Theorem 2", "exact, uniform drive", "measured", "offset spikes"),
    )
    for site in causes.sites:
        if site.site in slips:
            settings = slips[site.site].config
            theta = float(snn.site(site.site).theta.mean())
            exact = uniform_error(
                settings.levels,
                settings.slope,
                causes.steps,
                shift=settings.shift,
                ramp_shift=settings.ramp_shift,
                start=float((snn.site(site.site).v_init / theta).mean()),
            )[1]
            numbers = (settings.slope / (4 * causes.steps), exact, site.quantisation.size / theta)
            offset = site.unevenness.size * causes.steps / theta
            table.add_row(
                site.site,
                *(str(settings.levels), f"{settings.slope:g}"),
                *(f"{number:.4f}" for number in numbers),
                f"{offset:.3f}",
            )
    return table


def error_advice(causes: ErrorCauses) -> list[str]:
    """What to change first: a line for each of the sites where conversion adds the most error."""
    lines = []
    if causes.deviation > causes.conversion:
        lines.append(
            "the answers of the trained network are further from the ReLU network's than from the spiking network's: "
            "more levels or a larger slope come closer to ReLU"
        )
    for site in causes.worst[:_WORST]:
        name = max(_ADVICE, key=lambda cause: site.cause(cause).size)
        size = site.cause(name).size
        if size > _NEGLIGIBLE * site.scale:
            lines.append(f"{site.site}: {name} of {_percent(size, site.scale)} % of its activation; {_ADVICE[name]}")
    return lines


def _percent(value: float, scale: float) -> str:
    if not scale:
        return "-"
    return f"{100 * value / scale:.3g}"
