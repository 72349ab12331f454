"""Bootstrap intervals against closed formulas and loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from research.metrics import text_scores
from research.report import intervals
from research.tasks import segmentation


def test_of_an_accuracy_it_is_that_of_a_binomial():
    rng = np.random.default_rng(0)
    right = rng.random(500) < 0.8
    records = [{"class": "a", "predicted": "a" if each else "b"} for each in right]
    share = float(right.mean())
    low, high, over = intervals.of("test/accuracy", share, records)
    error = 1.96 * (share * (1 - share) / 500) ** 0.5
    assert (
        over == "examples"
        and low == pytest.approx(share - error, abs=0.004)
        and high == pytest.approx(share + error, abs=0.004)
    )
    assert intervals.of("test/accuracy", share + 0.01, records) is None, "another metric of the same name"
    assert intervals.of("test/bleu", share, records) is None and intervals.of("test/accuracy", share, []) is None


def test_of_word_errors_it_is_over_sentences():
    references = ["one two three", "four", "five six", "seven eight nine ten"] * 20
    predictions = ["one two", "four five", "six", "seven eight nine ten"] * 20
    records = [{"prediction": p, "references": [r]} for p, r in zip(predictions, references, strict=True)]
    value = text_scores.wer(predictions, records)[0]["wer"]
    low, high, _ = intervals.of("test/wer", value, records)
    errors, words = np.array(text_scores.word_errors(predictions, records))
    assert 100 * errors.sum() / words.sum() == pytest.approx(value)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(2000):
        chosen = rng.integers(0, len(records), len(records))
        drawn.append(100 * errors[chosen].sum() / words[chosen].sum())
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), rtol=0.05)


def test_people_are_drawn_with_all_of_their_pairs():
    rng, records = np.random.default_rng(0), []
    for number in range(400):
        one, other = rng.integers(0, 8, 2) if number % 2 else [rng.integers(0, 8)] * 2
        same = int(one == other)
        paths = {"path1": f"s{one}/{number}.png", "path2": f"s{other}/{number + 1}.png"}
        records.append({**paths, "same": same, "similarity": round(float(rng.normal(same, 1)), 1)})
    same, similarity = ([each[key] for each in records] for key in ("same", "similarity"))
    value = roc_auc_score(same, similarity)
    groups, over, statistic = intervals._auc(records)
    assert (groups, over) == (8, "people") and intervals.of("test/auc", value, records) is not None
    counts = rng.multinomial(8, np.full(8, 1 / 8), 5)
    for row, found in zip(counts, statistic(counts), strict=True):
        person = lambda path: int(path[1:].split("/")[0])
        both = [(row[person(each["path1"])], row[person(each["path2"])]) for each in records]
        weight = [one if each["same"] else one * other for each, (one, other) in zip(records, both, strict=True)]
        assert found == pytest.approx(roc_auc_score(same, similarity, sample_weight=weight), abs=1e-12)


def test_identification_is_drawn_by_person():
    records = [{"person": f"s{n % 4}", "found": f"s{n % 4 if n % 3 else 9}"} for n in range(40)]
    value = np.mean([each["person"] == each["found"] for each in records])
    found = intervals.of("test/identification", float(value), records)
    assert found.over == "people"
    # A run that verifies as well writes its pairs into the same file.
    paths = [{"path1": f"s{n % 4}/1.png", "path2": f"s{n % 3}/2.png", "same": n % 2} for n in range(40)]
    pairs = [{**each, "similarity": each["same"] + 0.1 * (n % 12)} for n, each in enumerate(paths)]
    assert intervals.of("test/identification", float(value), [*records, *pairs]) == found
    auc = roc_auc_score([each["same"] for each in pairs], [each["similarity"] for each in pairs])
    alone = intervals.of("test/auc", auc, pairs)
    assert alone is not None and intervals.of("test/auc", auc, [*records, *pairs]) == alone


def test_confusions_of_images_are_added_before_the_mean_over_classes():
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 50, (30, 3, 3)) * np.array([1, 1, 0])[:, None]
    confusions[:, :, 2] = 0  # a class that occurs nowhere
    records = [{"confusion": each.tolist()} for each in confusions]
    value = segmentation.scores(confusions.sum(0), ("a", "b", "c"))["miou"]
    low, high, _ = intervals.of("test/miou", value, records)
    assert low < value < high
    counts = rng.multinomial(30, np.full(30, 1 / 30), 3)
    expected = [segmentation.scores(np.tensordot(row, confusions, 1), ("a", "b", "c"))["miou"] for row in counts]
    np.testing.assert_allclose(intervals._miou(records)[2](counts), expected, rtol=1e-12)
