import json
from dataclasses import replace

import pytest
from sweeps import ended, made_up, small_sweep

from transpike.errors import DataError
from transpike.experiments.sweep_record import Scores, TrialState, read_sweep
from transpike.functional import selection_criterion
from transpike.serialization.json_records import to_json, write_json

RELU = 95.92
# SlipReLU paper, VGG-16 on CIFAR-10: accuracies of ANN and SNN at T = 1, and the criterion as Tables S9, S10 print it,
# twice that of section 4.4.
PRINTED = {
    (1, 0.1): (90.93, 10.00, 85.92),
    (1, 0.5): (90.86, 85.40, 10.52),
    (1, 0.9): (94.93, 10.00, 85.92),
    (2, 0.1): (92.73, 87.94, 7.98),
    (2, 0.2): (93.02, 88.17, 7.75),
    (2, 0.5): (92.84, 75.46, 20.46),
    (2, 0.9): (95.47, 59.55, 36.37),
    (4, 0.1): (93.24, 68.87, 27.05),
    (4, 0.5): (94.54, 65.47, 30.45),
    (8, 0.2): (94.65, 50.20, 45.72),
}


@pytest.mark.parametrize("place", PRINTED)
def test_the_criterion_is_half_of_what_tables_s9_and_s10_print(place):
    ann, snn, printed = PRINTED[place]
    assert selection_criterion(RELU, ann, snn) == pytest.approx(printed / 2, abs=1e-9)
    assert Scores(10, RELU, ann, {1: snn}).criterion(1) == pytest.approx(printed / 2, abs=1e-9)


def test_the_choice_is_the_papers():
    sweep = small_sweep(levels=(1, 2), slopes=(0.1, 0.5, 0.9), at=(1,))

    def scores(trial):
        a = trial.setting.activation
        ann, snn, _ = PRINTED[a.levels, a.slope]
        return Scores(10_000, RELU, ann, {1: snn})

    chosen = made_up(sweep, scores, scores).choose().setting.activation
    assert (chosen.levels, chosen.slope) == (2, 0.1)  # (2, 0.2) of the paper is not among these


def _record():
    """Validation and test disagree: at T = 1 the criterion prefers c = 0.2, test images c = 0.5."""
    sweep = small_sweep(levels=(2,), seeds=(0, 1))

    def validation(trial):
        near = trial.setting.activation.slope == 0.2
        return Scores(240, 97.0, 95.0 if near else 97.0, {1: 93.0 - trial.seed if near else 80.0, 4: 90.0})

    def test(trial):
        return Scores(360, 97.0, 95.0, {1: 60.0 if trial.setting.activation.slope == 0.2 else 90.0, 4: 91.0})

    return made_up(sweep, validation, test)


def test_choice_and_hindsight_look_at_their_own_part():
    record = _record()
    chosen, best = record.choose(), record.best_in_hindsight(1)
    assert (chosen.setting.activation.slope, best.setting.activation.slope) == (0.2, 0.5)
    # seed 0: (97-95)/2 + (95-93)/2 = 2; seed 1: 1 + 3/2 = 2.5
    assert chosen.criterion(1) == 2.25
    assert best.criterion(1) == 8.5
    assert chosen.mean("test", lambda scores: scores.snn[1]) == 60.0


def test_test_accuracies_never_change_the_choice():
    record = _record()
    for value in (0.0, 100.0):
        worse = tuple(
            replace(
                result,
                test=replace(result.test, snn={1: value * (result.trial.seed % 2), 4: value}, relu=value, ann=value),
            )
            for result in record.results
        )
        for steps in (1, 4):
            assert replace(record, results=worse).choose(steps).setting == record.choose(steps).setting


def test_of_equal_criteria_the_more_accurate_spiking_network_is_chosen():
    sweep = small_sweep(levels=(2,), at=(1,))
    ann = {0.2: 91.0, 0.5: 94.0}

    def scores(trial):  # criterion 4 for both: (99 - 91) / 2 + 0, and (99 - 94) / 2 + (94 - 91) / 2
        return Scores(100, 99.0, ann[trial.setting.activation.slope], {1: 91.0})

    tied = made_up(sweep, scores, scores)
    assert [cell.criterion(1) for cell in tied.cells] == [4.0, 4.0]
    assert tied.choose().setting.activation.slope == 0.2  # the first

    def better(trial):
        found = scores(trial)
        return found if found.ann == 91.0 else replace(found, relu=101.0, ann=95.0, snn={1: 93.0})

    assert made_up(sweep, better, better).choose().setting.activation.slope == 0.5


def test_a_setting_counts_only_with_all_its_seeds():
    record = _record()
    failed = ended(record.results[0].trial, None, None, TrialState.FAILED)
    short = replace(record, results=(failed, *record.results[1:]))
    assert [cell.setting.activation.slope for cell in short.cells] == [0.5]
    assert short.choose().setting.activation.slope == 0.5
    with pytest.raises(DataError, match="no setting is finished"):
        replace(record, results=()).choose()


def test_rows_are_flat_and_hold_every_number():
    pandas = pytest.importorskip("pandas")
    record = _record()
    failed = ended(record.results[0].trial, None, None, TrialState.FAILED)
    frame = pandas.DataFrame(replace(record, results=(failed, *record.results[1:])).rows())
    assert len(frame) == 1 + 3 * 2
    row = frame[(frame.slope == 0.2) & (frame.seed == 1) & (frame.steps == 1)].iloc[0]
    assert (row.validation_snn, row.criterion, row.test_snn, row.levels, row.theta_init) == (92.0, 2.5, 60.0, 2, "p99")
    assert frame[frame.state == "failed"].criterion.isna().all()


def test_a_record_comes_back_from_its_file(tmp_path):
    record = _record()
    write_json(tmp_path / "sweep.json", to_json(record))
    assert read_sweep(tmp_path) == record
    assert read_sweep(tmp_path / "sweep.json") == record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "Sweep"}', '{"kind": "Scores", "images": 1}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps(to_json(Scores(1, 2.0, 3.0, {1: 4.0}))))
    with pytest.raises(DataError, match="holds a Scores"):
        read_sweep(tmp_path)
