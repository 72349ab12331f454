"""Scores against values computed by hand, the libraries on the raw strings, and implementations of other shape."""

import collections
import functools
import itertools
import re
import string
import warnings

import numpy as np
import pytest
import sacrebleu

from research.metrics import text_scores

WORDS = ["the", "a", "An", "cat", "Cat", "cat's", "dog", "sat,", "on", "mat.", "!", "7"]


def examples(*references, **fields):
    """One example a tuple of references; other fields are a list over the examples."""
    return [
        {"references": each, **{name: values[i] for name, values in fields.items()}}
        for i, each in enumerate(references)
    ]


def score(metric, predictions, *references, **fields):
    return text_scores.METRICS[metric](predictions, examples(*references, **fields))[0]


def texts(count, seed=0, longest=7):
    """Predictions and one to three references of each, with much in common and some of them empty."""
    rng = np.random.default_rng(seed)
    text = lambda: " ".join(rng.choice(WORDS, rng.integers(0, longest)))
    return [text() for _ in range(count)], [tuple(text() for _ in range(rng.integers(1, 4))) for _ in range(count)]


# ---- BLEU and chrF


def test_bleu_by_hand():
    # Precisions 4/5, 3/4, 2/3 and 1/2, no penalty for length: the fourth root of 1/5.
    assert score("bleu", ["one two three four five"], ("one two three four six",)) == {"bleu": pytest.approx(66.8740)}
    # Two of the five are left out: all precisions are 1, and exp(1 - 7/5) is the penalty.
    shorter = score("bleu", ["one two three four five"], ("one two three four five six seven",))
    assert shorter["bleu"] == pytest.approx(100 * np.exp(-0.4))


def test_bleu_takes_punctuation_apart_and_keeps_case():
    assert score("bleu", ["A man , a dog ."], ("A man, a dog.",))["bleu"] == pytest.approx(100)
    assert score("bleu", ["a man, a dog."], ("A man, a dog.",))["bleu"] < 90


def test_bleu_of_chinese_is_over_characters():
    prediction, reference = ["我喜欢猫狗"], ("我喜欢猫鸟",)
    assert score("bleu_zh", prediction, reference)["bleu_zh"] == pytest.approx(66.8740)
    assert score("bleu_13a", prediction, reference)["bleu_13a"] == 0
    assert score("bleu", prediction, reference)["bleu"] == pytest.approx(66.8740)


def test_bleu_and_chrf_equal_the_library_on_the_raw_strings():
    predictions, references = texts(40)
    first = [each[:1] for each in references]
    streams = [[each[0] for each in first]]
    assert score("bleu", predictions, *first)["bleu"] == sacrebleu.corpus_bleu(predictions, streams).score
    assert score("chrf", predictions, *first)["chrf"] == sacrebleu.corpus_chrf(predictions, streams).score
    streams = [[each[k] if k < len(each) else None for each in references] for k in range(3)]
    assert score("bleu", predictions, *references)["bleu"] == sacrebleu.corpus_bleu(predictions, streams).score
    assert score("chrf", predictions, *references)["chrf"] == sacrebleu.corpus_chrf(predictions, streams).score


def test_every_reference_can_lend_its_words():
    references = ("five six seven eight", "one two three four")
    assert score("bleu", ["one two three four"], references)["bleu"] == pytest.approx(100)


def test_signatures_say_how():
    one, several = examples(("a b c d",)), examples(("a b c d",), ("a", "b"))
    _, signature = text_scores.bleu(["a b c d"], one)
    assert signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "nrefs:var" in text_scores.bleu(["a b c d", "a"], several)[1]
    assert "tok:zh" in text_scores.bleu_zh(["a b c d"], one)[1]
    assert text_scores.chrf(["a b c d"], one)[1].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert "Porter stemmer, first reference" in text_scores.rouge(["a"], one)[1]
    assert "best of all references" in text_scores.rouge_multi(["a"], one)[1]


# ---- ROUGE


def test_rouge_by_hand():
    scores = score("rouge", ["the cat sat"], ("The cat ran fast",))
    # Of 3 and 4 words 2 are shared, of 2 and 3 pairs 1.
    assert scores == pytest.approx({"rouge1": 400 / 7, "rouge2": 40, "rougeL": 400 / 7, "rougeLsum": 400 / 7})
    two = score("rouge", ["the cat sat", "nothing"], ("The cat ran fast",), ("else",))
    assert two == pytest.approx({name: value / 2 for name, value in scores.items()})


def test_rouge_compares_stems():
    assert score("rouge", ["Meetings scheduled"], ("meeting schedule",))["rouge1"] == 100


def test_rouge_l_of_summaries_takes_lines_as_sentences():
    scores = score("rouge", ["dogs bark\ncats sleep"], ("cats sleep\ndogs bark",))
    assert scores["rougeL"] == 50 and scores["rougeLsum"] == 100


def test_rouge_compares_with_the_original_or_with_all():
    references = ("budget for may", "the weather", "lunch tomorrow")
    assert score("rouge", ["lunch tomorrow"], references)["rouge1"] == 0
    assert score("rouge_multi", ["lunch tomorrow"], references)["rouge1_multi"] == 100


# ---- exact answers


def test_accuracy_is_the_share_of_equal_answers():
    references = [("positive",), ("negative",), ("yes", "yeah"), ("No",)]
    assert score("accuracy", ["positive", "positive", " yeah ", "no"], *references) == {"accuracy": 0.5}


def test_tasks_count_alike_in_their_mean():
    references = [("x",)] * 4
    scores = score("accuracy_by_task", ["x", "y", "y", "x"], *references, task=[1, 1, 1, 12])
    assert scores == {
        "accuracy_mean": pytest.approx(2 / 3), "accuracy_task_01": pytest.approx(1 / 3), "accuracy_task_12": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"accuracy_by_task needs a data set whose examples have the field task"):
        score("accuracy_by_task", ["x"], ("x",))


def test_squad_by_hand():
    assert score("squad", ["the Cat sat!"], ("A cat sat down",)) == {"exact_match": 0, "f1": pytest.approx(80)}
    assert score("squad", ["The  cat."], ("dog", "a cat")) == {"exact_match": 100, "f1": 100}


def squad_words(text):
    """The words that SQuAD compares, by splitting: articles are words of letters, digits and _."""
    kept = "".join(" " if letter.isspace() else letter for letter in text.lower() if letter not in string.punctuation)
    words = [re.split(r"(\W)", word) for word in kept.split()]
    return "".join(" " if part in {"a", "an", "the"} else part for word in words for part in [*word, " "]).split()


def test_squad_and_an_independent_implementation_agree():
    predictions, references = texts(300, seed=1)
    # Every question has an answer, as in v1.1; for the others see test_scripts.py.
    references = [tuple(each or "cat" for each in accepted) for accepted in references]
    exact, f1 = [], []
    for prediction, accepted in zip(predictions, references, strict=True):
        ours, best = squad_words(prediction), []
        for theirs in map(squad_words, accepted):
            left, common = list(theirs), 0
            for word in ours:
                if word in left:
                    left.remove(word)
                    common += 1
            precision, recall = (common / max(len(words), 1) for words in (ours, theirs))
            best.append((ours == theirs, 2 * precision * recall / (precision + recall) if common else 0))
        exact.append(max(is_equal for is_equal, _ in best))
        f1.append(max(value for _, value in best))
    scores = score("squad", predictions, *references)
    assert 0 < np.mean(exact) < np.mean(f1) < 1
    assert scores == pytest.approx({"exact_match": 100 * np.mean(exact), "f1": 100 * np.mean(f1)})


def test_answers_are_normalised_in_the_order_of_the_squad_script():
    # Punctuation goes first, so that "a." is an article, and "the-cat" one word.
    assert text_scores.normalise_answer("A. The-cat's\tan  apple, THE end") == "thecats apple end"


# ---- TweetQA


def test_tweetqa_by_hand():
    scores = score("tweetqa", ["the big red dog"], ("A red dog ran home",))
    precision, recall = 2 / 3, 2 / 4
    assert scores["bleu1"] == pytest.approx(precision * np.exp(1 - 4 / 3))
    assert scores["rouge_l"] == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))


def test_bleu1_equals_nltk():
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    predictions, references = texts(300, seed=2)
    split = lambda text: text_scores.normalise_answer(text).split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about longer n-grams, whose weight is 0
        expected = [
            bleu_score.sentence_bleu([split(each) for each in accepted], split(prediction), weights=(1, 0, 0, 0))
            for prediction, accepted in zip(predictions, references, strict=True)
        ]
    assert 0.1 < np.mean(expected) < 0.9
    assert score("tweetqa", predictions, *references)["bleu1"] == pytest.approx(np.mean(expected))


def longest_common(one, other):
    """By trying the subsequences of `one`, long ones first."""
    for length in range(len(one), 0, -1):
        for chosen in itertools.combinations(one, length):
            rest = iter(other)
            if all(word in rest for word in chosen):
                return length
    return 0


def test_rouge_l_equals_the_formula_over_brute_force():
    predictions, references = texts(100, seed=3)
    split = lambda text: text_scores.normalise_answer(text).split(" ")  # as coco-caption: "" is one empty word
    expected = []
    for prediction, accepted in zip(predictions, references, strict=True):
        ours = split(prediction)
        common = [(longest_common(ours, split(each)), len(split(each))) for each in accepted]
        precision, recall = max(c for c, _ in common) / len(ours), max(c / n for c, n in common)
        expected.append(2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0)
    assert 0.1 < np.mean(expected) < 0.9
    assert score("tweetqa", predictions, *references)["rouge_l"] == pytest.approx(np.mean(expected))


def test_answers_without_words():
    assert score("tweetqa", ["the"], ("a",)) == {"bleu1": 0, "rouge_l": 1}  # as the official script has it
    assert score("squad", ["the"], ("a",)) == {"exact_match": 100, "f1": 0}  # likewise


# ---- all


MOST = collections.defaultdict(lambda: 100, accuracy=1, accuracy_by_task=1, tweetqa=1)


# Of the others, which count errors, less is better: see test_speech.py.
SCORES = sorted(text_scores.METRICS.keys() - {"wer", "wer_by_speaker"})


@pytest.mark.parametrize("metric", SCORES)
def test_the_reference_itself_scores_most_and_nothing_scores_least(metric):
    references = [("One dog runs over two green hills .",), ("Five people wait here today\nand sing",)]
    scores = functools.partial(score, metric, task=[1, 2])
    same = scores([each[0] for each in references], *references)
    assert same == pytest.approx(dict.fromkeys(same, MOST[metric]))
    assert scores(["", ""], *references) == dict.fromkeys(same, 0)


@pytest.mark.parametrize("metric", SCORES)
def test_the_order_of_examples_does_not_matter(metric):
    predictions, references = texts(20, seed=4)
    tasks = [index % 3 for index in range(20)]
    forwards = score(metric, predictions, *references, task=tasks)
    assert score(metric, predictions[::-1], *references[::-1], task=tasks[::-1]) == pytest.approx(forwards)
