"""Records of sweeps with numbers made up, for tests."""

from collections.abc import Callable

from transpike.experiments.recipe import Training
from transpike.experiments.sweep import Sweep, Trial
from transpike.experiments.sweep_record import Scores, SweepRecord, TrialResult, TrialState
from transpike.serialization.environment import environment


def small_sweep(**settings: object) -> Sweep:
    """Four settings of two epochs each."""
    short = {
        "relu": Training("relu", epochs=2, learning_rate=0.1),
        "training": Training("slip", epochs=2, learning_rate=0.05, start="relu"),
        "at": (1, 4),
        "calibration_images": 200,
    }
    return Sweep(
        **{
            "data": "digits",
            "networks": ("digits-resnet",),
            "levels": (1, 2),
            "slopes": (0.2, 0.5),
            **short,
            **settings,
        }
    )


def ended(
    trial: Trial, validation: Scores | None, test: Scores | None, state: TrialState = TrialState.FINISHED
) -> TrialResult:
    why = "" if state is TrialState.FINISHED else "the loss became nan"
    return TrialResult(trial, state, why, 2, validation, test, 2.0, 1.0, f"digest of {trial}")


def made_up(sweep: Sweep, validation: Callable[[Trial], Scores], test: Callable[[Trial], Scores]) -> SweepRecord:
    results = tuple(ended(trial, validation(trial), test(trial)) for trial in sweep.trials())
    return SweepRecord(sweep, results, True, 60.0, environment(), "data")
