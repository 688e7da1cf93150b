"""Which layers should wait, and how long: lags of staggered rates or of digits for a given latency."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from transpike.calibration.progress import ProgressBar
from transpike.calibration.sweep import CalibrationData, batches_of, inputs_of
from transpike.errors import CalibrationError, InputError
from transpike.graph.walk import argument_count, reference_tensor
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Plain, Schedule, SignedDigits, Staggered, Wait
from transpike.schedules.digits import MOST_DIGITS
from transpike.serialization.fields import check_count, fitted

_BATCH = 100
_CHOOSE = 256
"""So many images choose at most. All others confirm, which takes two runs only, so that there may be many of them."""
_SCREEN, _BEST = 8, 3
"""Candidates are first tried on an eighth of the images that choose, so many of them then on all."""
_LATER = 6
"""After the first round only the candidates that did best in the round before are tried again."""
_GAIN = 0.5
"""Percentage points of agreement that a further lag must gain; less is likely to be noise, and lags cost steps."""
_LESS_ERROR = 0.95
"""Digits are near the ANN, where few answers differ: there, what the error falls to decides."""

_BASES = {1.5: 0.6, 1.6: 0.6, 1.8: 0.65, 2.0: 0.65}
"""The bases of digits that are tried, with the share of a digit's worth from which it is sent."""
_FINER = (0.1, 0.05)  # by so much base and share move at the end

Lags = tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """How well a network answers.

    Attributes:
        agreement: share of the images whose answer is the ANN's own, in percent.
        error: mean squared difference of the softmax outputs.
    """

    agreement: float
    error: float

    @property
    def order(self) -> tuple[float, float]:
        """Sorts scores: the larger the better; the error decides between equal agreements."""
        return (self.agreement, -self.error)


@dataclass(frozen=True)
class Trial:
    """One schedule that was run on the images that choose.

    Attributes:
        schedule: what was run.
        steps: T, what the lags on the longest path leave of the budget.
        images: on how many images.
        score: how it did.
    """

    schedule: Schedule
    steps: int
    images: int
    score: Score


@dataclass(frozen=True)
class LagSearch:
    """What `search_lags` found.

    Attributes:
        budget: B, the pipeline steps that the answer may take.
        schedule: the best schedule, `Plain` if no lags are better beyond doubt.
        steps: T to read out under it; ``snn.latency(steps, schedule).pipeline_steps`` is the budget.
        images: number of images that chose, and of those that confirmed.
        plain: plain integrate-and-fire with T = B, on the images that chose.
        best: the best lags found, on the same images; equal to ``plain`` if there were none.
        confirmed_plain: plain on the images held back.
        confirmed_best: the best lags on the images held back.
        trail: everything that was run, in order.
    """

    budget: int
    schedule: Schedule
    steps: int
    images: tuple[int, int]
    plain: Score
    best: Score
    confirmed_plain: Score
    confirmed_best: Score
    trail: tuple[Trial, ...]


def search_lags(
    snn: SpikingNetwork,
    *,
    calibration: CalibrationData,
    budget: int,
    digits: bool = False,
    max_lag: int = 4,
    evaluations: int = 200,
    doubt: float = 2.0,
    progress: bool = False,
) -> LagSearch:
    """Finds the lags with which the network answers best after ``budget`` pipeline steps.

    Lags cost readout steps: T is the budget less the lags along the longest path (on parallel branches a lag may cost
    nothing). Both ways to wait (`Wait`) are tried; or, of digits, some bases. If all vectors of lags fit into
    ``evaluations``, all are run; else lags are added greedily, at one site or at a group of sites (those of one
    population shape, the last few, all), while a round gains half a percentage point. For digits also at every other
    site, then lags move from site to site, while the error falls by a twentieth; at last base and decision move. Half
    of the images, at most 256, choose by agreement with the ANN's own answers (digits: by the error); on the others
    the winner must mend more of plain's answers than it spoils, by ``doubt`` standard deviations of a fair coin.
    Otherwise plain is returned.
    Deterministic; no labels are used.

    Args:
        snn: the converted network, a classifier.
        calibration: training images, 512 or more: never those that the accuracy is reported on.
        budget: B, at least 1.
        digits: search among `SignedDigits`, with base and T, instead of `Staggered`. Their events may be negative; give
            a network with thresholds for about as many values as the digits tell apart, and a few hundred evaluations.
        max_lag: largest lag of a site.
        evaluations: bound for the schedules that are run; a run on a part of the images counts as one, too.
        doubt: standard deviations.
        progress: show a progress bar.

    Raises:
        ValueError: budget, max_lag or evaluations below 1, or negative doubt.
        CalibrationError: fewer than two images.
        InputError: the answer is not one tensor ``[N, classes]``.
    """
    snn = converted(snn, "search_lags")
    for name, value in {"budget": budget, "max_lag": max_lag, "evaluations": evaluations}.items():
        check_count(name, value)
    if not fitted("doubt", doubt, float) >= 0:
        raise ValueError(f"doubt must not be negative, got {doubt}")
    pieces = _pieces(snn, calibration)
    images = sum(piece[0].shape[0] for piece in pieces)
    if images < 2:
        raise CalibrationError(
            f"{images} image(s) cannot be divided into some that choose and others that confirm",
            where="calibration",
            fix="pass a tensor or batches of training images; a used-up iterator gives none",
        )
    with torch.no_grad(), ProgressBar(f"lags for {budget} steps", evaluations, progress) as bar:
        chosen, held = _split(pieces, min(_CHOOSE, (images + 1) // 2))
        choosing, confirming = _Judge(snn, chosen, budget), _Judge(snn, held, budget)
        families = _digits(choosing) if digits else _rates()
        search = _Search(choosing, max_lag, evaluations, bar, families, digits=digits)
        best = search.run()
        plain_hits, confirmed_plain = confirming.score(Plain())
        hits, confirmed_best = confirming.score(best.schedule)
    mended, spoilt = int((hits & ~plain_hits).sum()), int((plain_hits & ~hits).sum())
    if mended - spoilt > doubt * (mended + spoilt) ** 0.5:
        schedule, steps = best.schedule, best.steps
    else:
        schedule, steps = Plain(), budget
    return LagSearch(
        budget=budget,
        schedule=schedule,
        steps=steps,
        images=(choosing.images, confirming.images),
        plain=search.trail[0].score,
        best=best.score,
        confirmed_plain=confirmed_plain,
        confirmed_best=confirmed_best,
        trail=tuple(search.trail),
    )


_Piece = tuple[Tensor, ...]


def _pieces(snn: SpikingNetwork, batches: CalibrationData) -> list[_Piece]:
    """The inputs on the network's device, in batches that are not larger than ``_BATCH``."""
    reference, arguments = reference_tensor(snn), argument_count(snn.network)
    found: list[_Piece] = []
    for batch in batches_of(batches):
        inputs = [tensor.to(reference.device, reference.dtype) for tensor in inputs_of(batch, arguments)]
        found += zip(*(torch.split(tensor, _BATCH) for tensor in inputs), strict=True)
    return [piece for piece in found if piece[0].shape[0]]


def _split(pieces: Iterable[_Piece], count: int) -> tuple[list[_Piece], list[_Piece]]:
    """The first ``count`` samples, and the others."""
    first: list[_Piece] = []
    second: list[_Piece] = []
    for piece in pieces:
        now = min(count, piece[0].shape[0])
        count -= now
        first += [tuple(tensor[:now] for tensor in piece)] if now else []
        second += [tuple(tensor[now:] for tensor in piece)] if now < piece[0].shape[0] else []
    return first, second


class _Judge:
    """Compares a network's answers after ``budget`` pipeline steps with those of the ANN."""

    def __init__(self, snn: SpikingNetwork, pieces: Sequence[_Piece], budget: int) -> None:
        self.snn = snn
        self.pieces = pieces
        self.budget = budget
        self.images = sum(piece[0].shape[0] for piece in pieces)
        self.wanted = [self._softmax(snn.ann(*piece)) for piece in pieces]

    def steps(self, schedule: Schedule) -> int:
        """T that the schedule leaves of the budget; below 1 if it needs more."""
        return self.budget + 1 - self.snn.latency(1, schedule).pipeline_steps

    def score(self, schedule: Schedule) -> tuple[Tensor, Score]:
        """Which answers ``[N]`` are the ANN's, and the score."""
        steps = self.steps(schedule)
        hits, error = [], 0.0
        for piece, wanted in zip(self.pieces, self.wanted, strict=True):
            answer = self._softmax(self.snn(*piece, steps=steps, schedule=schedule)[-1])
            hits.append(answer.argmax(1) == wanted.argmax(1))
            error += float((answer - wanted).square().mean(1).sum(dtype=torch.float64))
        agreed = torch.cat(hits)
        return agreed, Score(100.0 * int(agreed.sum()) / self.images, error / self.images)

    @staticmethod
    def _softmax(answer: object) -> Tensor:
        if not isinstance(answer, Tensor) or answer.dim() != 2:
            raise InputError(
                "search_lags needs one output of shape [N, classes]",
                where="the model's answer",
                fix="wrap the model so that it returns its logits",
            )
        return answer.softmax(1)


_Family = Callable[[tuple[tuple[str, int], ...]], Schedule]
"""A schedule for lags of sites."""


def _rates() -> list[_Family]:
    return [partial(Staggered, 0, wait=wait) for wait in Wait]


def _digits(judge: _Judge) -> list[_Family]:
    """As many digits as the lags leave time for."""

    def family(base: float, decision: float) -> _Family:
        def schedule(lags: tuple[tuple[str, int], ...]) -> Schedule:
            waiting = SignedDigits(1, base, decision, 0, lags)
            return replace(waiting, digits=min(MOST_DIGITS, max(1, judge.steps(waiting))))

        return schedule

    return [family(base, decision) for base, decision in _BASES.items()]


class _Search:
    """Runs candidates on the images that choose, as many as allowed.

    Args:
        judge: compares answers with the ANN's.
        max_lag: largest lag of a site.
        evaluations: bound for the number of runs.
        bar: moves with every run.
        families: the kinds of schedules whose lags are searched.
        digits: whether the error decides instead of the agreement, lags at every other site are tried (in a residual
            network, the ends of blocks), and lags move from site to site.
    """

    def __init__(
        self,
        judge: _Judge,
        max_lag: int,
        evaluations: int,
        bar: ProgressBar,
        families: Sequence[_Family],
        digits: bool,
    ) -> None:
        self.judge = judge
        self.families = families
        self.digits = digits
        self.screen = _Judge(judge.snn, _split(judge.pieces, -(-judge.images // _SCREEN))[0], judge.budget)
        self.sites = judge.snn.sites
        self.max_lag = min(max_lag, judge.budget - 1)
        self.evaluations = evaluations
        self.bar = bar
        self.trail: list[Trial] = []

    def run(self) -> Trial:
        """The best of all, or of what greedy search reaches."""
        plain = self._try(self.judge, Plain())
        vectors = (self.max_lag + 1) ** len(self.sites) - (0 if self.digits else 1)  # without lags, rates are plain
        if len(self.families) * vectors <= self.evaluations - 1:
            reached = [self._try(self.judge, schedule) for schedule in self._all()]
        else:
            share = (self.evaluations - 1) // len(self.families)
            reached = [self._greedy(plain, family, share) for family in self.families]
        best = max([plain, *reached], key=self._order)  # of equals the first: plain
        return self._refined(best, best.schedule) if isinstance(best.schedule, SignedDigits) else best

    def _refined(self, best: Trial, digits: SignedDigits) -> Trial:
        """Moves base and decision while the error falls."""
        for size, (field, least, most) in itertools.product(_FINER, (("base", 1.05, 2.0), ("decision", 0.5, 0.95))):
            for move in (size, -size):
                before = best
                while len(self.trail) < self.evaluations and least <= getattr(digits, field) + move <= most:
                    moved = replace(digits, **{field: round(getattr(digits, field) + move, 2)})
                    trial = self._try(self.judge, moved)
                    if self._order(trial) <= self._order(best):
                        break
                    best, digits = trial, moved
                if best is not before:
                    break  # the other way was worse
        return best

    def _order(self, trial: Trial) -> tuple[float, float]:
        """Sorts trials, the better the larger."""
        return (-trial.score.error, trial.score.agreement) if self.digits else trial.score.order

    def _gains(self, trial: Trial, best: Trial) -> bool:
        if self.digits:
            return trial.score.error < _LESS_ERROR * best.score.error
        return trial.score.agreement - best.score.agreement >= _GAIN

    def _all(self) -> Iterator[Schedule]:
        for family in self.families:
            for lags in itertools.product(range(self.max_lag + 1), repeat=len(self.sites)):
                if (self.digits or any(lags)) and self._fits(lags):
                    yield family(self._named(lags))

    def _greedy(self, plain: Trial, family: _Family, allowed: int) -> Trial:
        """Adds the lag that helps most until none helps; the first tries are on a part of the images."""
        end = len(self.trail) + allowed
        moves, shifting = self._moves(), not self.digits
        lags: Lags = (0,) * len(self.sites)
        best = self._try(self.judge, family(())) if self.digits else plain
        while True:
            tried: list[tuple[Trial, Lags, Lags]] = []
            for move in moves:
                now = tuple(min(lag + more, self.max_lag) for lag, more in zip(lags, move, strict=True))
                if now == lags or min(now) < 0 or not self._fits(now) or now in (other for _, other, _ in tried):
                    continue
                if len(self.trail) >= end - _BEST:  # trials on a few images only would be for nothing
                    break
                tried.append((self._try(self.screen, family(self._named(now))), now, move))
            tried.sort(key=lambda found: self._order(found[0]), reverse=True)
            finals = [(self._try(self.judge, trial.schedule), now) for trial, now, _ in tried[:_BEST]]
            winner, now = max(finals, key=lambda found: self._order(found[0]), default=(best, lags))
            if self._gains(winner, best):
                best, lags = winner, now
                if not shifting or not self.digits:
                    moves = [move for _, _, move in tried[:_LATER]]
            elif shifting:
                return best
            else:
                moves, shifting = self._shifts(), True

    def _moves(self) -> list[Lags]:
        """Lags to add: to each site, to the sites of one population shape, to the last few, to all."""
        count = len(self.sites)
        groups = [{index} for index in range(count)]
        for _, members in itertools.groupby(range(count), key=lambda index: self.sites[index].shape):
            groups.append(set(members))
        groups += [set(range(count - size, count)) for size in _powers_of_two(count)]
        groups.append(set(range(count)))
        if self.digits:
            groups += [set(range(first, count, 2)[:size]) for first in (0, 1, 2) for size in (2, 3, 4, 5, 6, 8, count)]
        distinct = list(dict.fromkeys(frozenset(group) for group in groups))
        amounts = dict.fromkeys([1, max(1, self.judge.budget // 8)])
        return [
            tuple(amount if index in group else 0 for index in range(count)) for amount in amounts for group in distinct
        ]

    def _shifts(self) -> list[Lags]:
        """A lag from one site to another one near it."""
        count = len(self.sites)
        pairs = [(start, start + by) for start in range(count) for by in (-2, -1, 1, 2) if 0 <= start + by < count]
        return [tuple((index == to) - (index == start) for index in range(count)) for start, to in pairs]

    def _named(self, lags: Lags) -> tuple[tuple[str, int], ...]:
        return tuple((site.name, lag) for site, lag in zip(self.sites, lags, strict=True) if lag)

    def _fits(self, lags: Lags) -> bool:
        return self.judge.steps(Staggered(0, self._named(lags))) >= 1

    def _try(self, judge: _Judge, schedule: Schedule) -> Trial:
        trial = Trial(schedule, judge.steps(schedule), judge.images, judge.score(schedule)[1])
        self.trail.append(trial)
        self.bar.advance()
        return trial


def _powers_of_two(below: int) -> list[int]:
    return [2**k for k in range(1, below.bit_length()) if 2**k < below]
