"""Schedules: how a converted network runs in time. One file per idea, one row in the table below."""

from transpike.schedules.accumulate import AccumulateThenFire
from transpike.schedules.contract import FunctionContext, Memory, Schedule, SiteContext
from transpike.schedules.digits import DigitCode, Radix, SignedDigits
from transpike.schedules.exact_potential import ExactPotential
from transpike.schedules.latency import Latency
from transpike.schedules.offset_spike import Decision, OffsetSpike
from transpike.schedules.plain import Plain
from transpike.schedules.probing import Probing
from transpike.schedules.residual import Residual
from transpike.schedules.staggered import Staggered, Wait
from transpike.schedules.two_passes import TwoPasses

SCHEDULES: dict[str, type[Schedule]] = {
    "plain": Plain,
    "residual": Residual,
    "cos": OffsetSpike,
    "exact": ExactPotential,
    "accumulate": AccumulateThenFire,
    "staggered": Staggered,
    "srp": TwoPasses,
    "radix": Radix,
    "digits": SignedDigits,
}

__all__ = [
    "SCHEDULES",
    "AccumulateThenFire",
    "Decision",
    "DigitCode",
    "ExactPotential",
    "FunctionContext",
    "Latency",
    "Memory",
    "OffsetSpike",
    "Plain",
    "Probing",
    "Radix",
    "Residual",
    "Schedule",
    "SignedDigits",
    "SiteContext",
    "Staggered",
    "TwoPasses",
    "Wait",
]
