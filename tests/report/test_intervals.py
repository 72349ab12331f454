"""Bootstrap intervals against closed formulas and loops."""

import numpy as np
import pytest
from scipy import stats
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


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 1.0), ("exact_match", 100.0)])
def test_of_none_or_all_right_it_is_that_of_clopper_and_pearson(metric, best):
    for right, wanted in ((40, stats.binomtest(40, 40).proportion_ci()), (0, stats.binomtest(0, 40).proportion_ci())):
        records = [{"prediction": "yes", "references": ["yes" if each < right else "no"]} for each in range(40)]
        low, high, _ = intervals.of(f"test/{metric}", best * right / 40, records)
        assert (low, high) == pytest.approx((best * wanted.low, best * wanted.high))


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
    groups, over, statistic, _ = intervals._auc(records, "auc")
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
    np.testing.assert_allclose(intervals._miou(records, "miou").statistic(counts), expected, rtol=1e-12)


WORDS = (
    "the cat sat on a mat",
    "a dog ran",
    "it rains in Rome today",
    "nobody came to the party",
    "yes",
    "no milk left",
)


def answers(seed, count=40):
    """Predictions that are partly right, of tasks of unequal sizes."""
    rng, records = np.random.default_rng(seed), []
    for index in range(count):
        text = WORDS[index % len(WORDS)]
        words = text.split()
        for place in range(len(words)):
            if rng.random() < 0.4:
                words[place] = str(rng.choice(["dog", "mat", "Rome"]))
        records.append(
            {"index": index, "prediction": " ".join(words), "references": [text, "a cat"], "task": index % 7 // 3}
        )
    return records


TEXT_METRICS = {
    "accuracy": "accuracy", "accuracy_mean": "accuracy_by_task", "f1": "squad", "exact_match": "squad", "wer": "wer",
    "bleu1": "tweetqa", "rouge_l": "tweetqa", "rouge1": "rouge", "rouge2": "rouge", "rougeL": "rouge",
    "bleu": "bleu", "bleu_char": "bleu_char",
}  # fmt: skip


def scored(name, records):
    return text_scores.METRICS[TEXT_METRICS[name]]([each["prediction"] for each in records], records)[0][name]


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_scores_and_differences_of_resampled_texts_are_those_of_the_drawn_examples(name):
    """By the metric itself, on each of a few resamples written out."""
    ours, theirs = answers(0), answers(1)
    statistics = [intervals._drawable(name, scored(name, records), records).statistic for records in (ours, theirs)]
    counts = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40), 4)
    for row, one, other in zip(counts, *(statistic(counts) for statistic in statistics), strict=True):
        drawn = np.repeat(np.arange(40), row)
        assert one == pytest.approx(scored(name, [ours[index] for index in drawn]), abs=1e-9)
        assert other == pytest.approx(scored(name, [theirs[index] for index in drawn]), abs=1e-9)


def test_a_difference_is_that_of_the_same_draws():
    rng = np.random.default_rng(0)
    hard = rng.random(300) < 0.3  # for both
    records = lambda right: [
        {"index": n, "class": "a", "predicted": "a" if each else "b"} for n, each in enumerate(right)
    ]
    one, other = ~hard & (rng.random(300) < 0.95), ~hard & (rng.random(300) < 0.9)
    found = intervals.difference("test/accuracy", (one.mean(), records(one)), (other.mean(), records(other)))
    assert found.value == one.mean() - other.mean() and found.over == "examples"
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(0, 300, 300)
        drawn.append(one[chosen].mean() - other[chosen].mean())
    np.testing.assert_allclose(found[1:3], np.quantile(drawn, [0.025, 0.975]), atol=0.004)
    error = 1.96 * (one.astype(float) - other).std() / 300**0.5  # of the differences themselves
    np.testing.assert_allclose(found[1:3], [found.value - error, found.value + error], atol=0.005)
    apart = [intervals.of("test/accuracy", each.mean(), records(each)) for each in (one, other)]
    unpaired = (sum((each.high - each.low) ** 2 for each in apart)) ** 0.5
    assert found.high - found.low < 0.75 * unpaired, "hard examples are hard for both"


def test_differences_of_people_and_of_images():
    rng, pairs = np.random.default_rng(0), []
    for number in range(200):
        one, other = rng.integers(0, 6, 2) if number % 2 else [rng.integers(0, 6)] * 2
        pairs.append({"path1": f"s{one}/{number}.png", "path2": f"s{other}/x{number}.png", "same": int(one == other)})
    lines = [[{**pair, "similarity": rng.normal(pair["same"] * far)} for pair in pairs] for far in (2, 1)]
    value = lambda records: roc_auc_score([each["same"] for each in records], [each["similarity"] for each in records])
    found = intervals.difference("test/auc", *((value(records), records) for records in lines))
    counts = np.random.default_rng(intervals.SEED).multinomial(6, np.full(6, 1 / 6), intervals.RESAMPLES)
    drawn = []
    for row in counts[:150]:
        person = lambda path: int(path[1:].split("/")[0])
        both = [(row[person(each["path1"])], row[person(each["path2"])], each["same"]) for each in pairs]
        weight = np.array([one if same else one * other for one, other, same in both])
        same = np.array([each["same"] for each in pairs])
        if weight[same == 1].sum() and weight[same == 0].sum():
            areas = [roc_auc_score(same, [each["similarity"] for each in of], sample_weight=weight) for of in lines]
            drawn.append(areas[0] - areas[1])
    assert found.over == "people" and found.value == value(lines[0]) - value(lines[1])
    np.testing.assert_allclose(found[1:3], np.quantile(drawn, [0.025, 0.975]), atol=0.04)
    assert found.low > 0


def test_predictions_for_other_examples_have_no_difference():
    ours, theirs = answers(0), answers(1)
    pair = lambda records: (scored("f1", records), records)
    assert intervals.difference("test/f1", pair(ours), pair(theirs)) is not None
    assert intervals.difference("test/f1", pair(ours), pair(theirs[:-1])) is None
    assert intervals.difference("test/f1", pair(ours), pair(theirs[::-1])) is None
    assert intervals.difference("test/f1", pair(ours), (1.0, theirs)) is None, "made in another way"
    assert intervals.difference("test/map50", pair(ours), pair(theirs)) is None


def test_questions_about_one_text_are_drawn_together():
    ranks, targets = [1, 1, 3, 20, 2, 1], ["a", "a", "b", "b", "b", "c"]
    records = [{"rank": rank, "target": target} for rank, target in zip(ranks, targets, strict=True)]
    groups, over, statistic, _ = intervals._retrieval(records, "mrr")
    assert (groups, over) == (3, "targets") and intervals.of("test/mrr", np.mean(1 / np.array(ranks)), records)
    found = statistic(np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]]))
    np.testing.assert_allclose(found, [np.mean(1 / np.array(ranks)), 1, (1 / 3 + 1 / 20 + 1 / 2) / 3])
    assert intervals.of("test/recall_at_5", 5 / 6, records) is not None
    assert intervals.of("test/recall_at_5", 4 / 6, records) is None
