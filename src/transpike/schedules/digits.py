"""Events that are digits: what an event is worth depends on its step, so T steps tell many more values than T + 1.

A rate code of T binary events knows T + 1 values, a digit code of base b about b^T. Values travel as increments: a
constant image and the biases of layers arrive in the first step only, and whatever follows adds up what arrives.

At a site let P(t) be the sum of what has arrived by step t. Digit k = 1, 2, ... is worth w_k, with falling w_k:

* `Radix` waits for all T digits of the sites before it, rounds P(T) to one of 2^T values, and sends its bits, the
  highest first. The answer of T digits is that of `AccumulateThenFire` with ``rho = 2^T - 1``.
* `SignedDigits` sends digit k when it has seen P(k + d), d steps further than k. Digits are -1, 0 or 1, so that later
  ones take back what earlier ones sent too much. With E the sum of what has been sent and R = clip(P(k + d), 0, theta)
  - E,

      s_k = 1 if R >= u w_k,  -1 if R <= -u w_k,  else 0;        w_k = theta (b - 1) b^-k / (1 - b^-T)

  This is "online arithmetic" (Ercegovac 1984): the digits after k can mend about ``theta (b^-k - b^-T)``, at base 2 as
  much as w_k, at a smaller base more. What arrives later must be smaller than that. A neuron does the same with a
  membrane that multiplies by b: ``v <- b (v - theta s) + I``, if what an event adds is scaled by b at every step, too.

Relatives: phase coding (Kim et al. 2018), radix encoding (Wang et al. 2022), few-spikes neurons (Stoeckl & Maass 2021),
canonic signed spikes (2024). The neuron's initial potential has no part in it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transpike.functional import summing_type
from transpike.kernels.digits import at_their_places, bits, digits_towards, signed_digits
from transpike.neurons import EventKind, Neuron
from transpike.schedules.contract import FunctionContext, Memory, Schedule, SiteContext
from transpike.schedules.probing import need_soft_reset
from transpike.serialization.fields import check_count

MOST_DIGITS = 23
"""Digits of base 2 that float32 tells apart."""
MOST_LEVELS = 255
"""More are as good as any number for a threshold of least squared error."""


@dataclass(frozen=True)
class DigitCode(Schedule):
    """What codes with digits have in common.

    Attributes:
        digits: T, how many digits every site sends, from 1 to 23; a longer run sends nothing more.
    """

    digits: int = 4
    streamable: ClassVar[bool] = False
    prefix_consistent: ClassVar[bool] = True
    incremental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("digits", self.digits, most=MOST_DIGITS)

    @property
    @abstractmethod
    def places(self) -> list[float]:
        """The weights of digits 1 .. T; together they are worth one threshold."""

    @property
    def worths(self) -> list[float]:
        """What digits 1 .. T are worth, in thresholds."""
        return [place / sum(self.places) for place in self.places]

    @property
    def levels(self) -> int:
        """How many of the last digit's worth make one threshold; at most `MOST_LEVELS`."""
        return min(MOST_LEVELS, round(1 / self.worths[-1]))

    def sizes(self, theta: Tensor) -> list[Tensor]:
        """What digits 1 .. T are worth."""
        return [place * self.unit(theta) for place in self.places]

    def unit(self, theta: Tensor) -> Tensor:
        """What a place of weight 1 is worth."""
        return theta / sum(self.places)

    def values(self, events: Tensor, theta: Tensor) -> Tensor:
        """Digits times what they are worth."""
        return at_their_places(events, self.places) * self.unit(theta)


@dataclass(frozen=True)
class Radix(DigitCode):
    """Sum the drive of all T digits, round to a count below 2^T, and send its bits, the highest first.

    Layer after layer, as `AccumulateThenFire`; binary events.
    """

    @property
    def places(self) -> list[float]:
        """``2^(T - 1), ..., 2, 1``."""
        return [2.0**place for place in reversed(range(self.digits))]

    def delay(self, site: str) -> int:
        """T: the first bit comes after all digits of the sites before."""
        return self.digits

    def site_steps(self, steps: int) -> int:
        """All digits, also where fewer are read out: later sites need them."""
        return max(self.digits, steps)

    def claimed_steps(self, steps: int) -> int:
        """Counted like other schedules that look before they fire: ``T`` more."""
        return self.digits + steps

    def interval(self, steps: int) -> int:
        """Steps that a layer is busy with one sample."""
        return self.digits + self.site_steps(steps)

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """The bits; there is no memory."""
        need_soft_reset(self, context.neuron)
        drive, most = context.drive, 2**self.digits - 1
        total = drive[: self.digits].sum(0, dtype=summing_type(drive.dtype))
        count = torch.floor(total / self.unit(context.parameters.theta) + 0.5).clamp(0, most).to(torch.int32)
        return bits(count, self.digits, self.digits).to(drive.dtype), ()


@dataclass(frozen=True)
class SignedDigits(DigitCode):
    """Send digits of -1, 0 and 1 while the digits of the sites before still arrive.

    Each site waits for its lag and then sends with every step; with a lag of one at every site a chain of L sites
    answers after L + T steps. Few lags want a smaller base. The last digit rounds to the nearest value.

    Attributes:
        digits: T.
        base: b in (1, 2].
        decision: u in [1/2, 1): the share of a digit's worth from which it is sent.
        default_lag: d, the lag of every site that ``site_lags`` does not name.
        site_lags: pairs of site name and lag.
    """

    digits: int = 5
    base: float = 2.0
    decision: float = 0.65
    default_lag: int = 1
    site_lags: tuple[tuple[str, int], ...] = ()
    events: ClassVar[EventKind | None] = EventKind.SIGNED

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1.0 < self.base <= 2.0:
            raise ValueError(f"base must lie in (1, 2], got {self.base}")
        if not 0.5 <= self.decision < 1.0:
            raise ValueError(f"decision must lie in [1/2, 1), got {self.decision}")
        if min([self.default_lag, *(lag for _, lag in self.site_lags)]) < 0:
            raise ValueError(f"lags must not be negative, got {self}")

    def lag(self, site: str) -> int:
        """Lag of a site in steps."""
        return dict(self.site_lags).get(site, self.default_lag)

    @property
    def places(self) -> list[float]:
        """``(b - 1) b^-1, ..., (b - 1) b^-T``, whose sum is ``1 - b^-T``."""
        return [(self.base - 1.0) * self.base**-digit for digit in range(1, self.digits + 1)]

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """The digits; there is no memory."""
        need_soft_reset(self, context.neuron)
        theta = context.parameters.theta
        lag = self.lag(context.site)
        return signed_digits(context.drive, theta, self.sizes(theta), self.decision, lag), ()

    def unsupported_function(self, neuron: Neuron) -> str | None:
        """None: digits have a sign."""
        return None

    def needed(self, site: str, arrived: int) -> slice:
        """The steps at which digits are decided; where fewer have arrived, the last of them stands for the later."""
        first = min(self.lag(site), arrived - 1)
        return slice(first, min(arrived, first + self.digits))

    def follow(self, context: FunctionContext) -> tuple[Tensor, Memory]:
        """Digits towards the function's values, which are those of the needed steps; there is no memory."""
        sizes = self.sizes(context.theta)
        return digits_towards(context.values, context.bounds(), sizes, self.decision), ()
