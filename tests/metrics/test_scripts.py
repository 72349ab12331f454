"""Scores of texts in other scripts than Latin, against values by hand and the evaluations that others publish."""

# ruff: noqa: RUF001  Chinese has its own punctuation.

import re
import string
import unicodedata
from collections import Counter

import numpy as np
import pytest
from rouge_score import rouge_scorer

from research.metrics import scripts, text_scores

ZH, JA, KO, TH = "我喜欢猫和狗。", "私は猫が好きです。", "나는 고양이를 좋아한다", "ผมชอบแมวและสุนัข"
RU, HI, AR = "Мне нравятся кошки.", "मुझे बिल्लियाँ पसंद हैं।", "أنا أحب القطط."


def score(metric, prediction, *references):
    return text_scores.METRICS[metric]([prediction], [{"references": references}])


@pytest.mark.parametrize("text", [ZH, JA, KO, TH, RU, HI, AR, "Ich mag Katzen sehr."])
def test_a_text_is_itself_in_every_script(text):
    assert score("rouge", text, text)[0] == pytest.approx(
        dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100)
    )
    assert score("bleu", text, text)[0]["bleu"] == pytest.approx(100)
    assert score("chrf", text, text)[0]["chrf"] == pytest.approx(100)
    assert score("squad", text, text)[0] == {"exact_match": 100, "f1": 100}
    assert score("tweetqa", text, text)[0] == {"bleu1": 1, "rouge_l": pytest.approx(1)}
    wrong = score("wer", text, text)[0]
    assert (wrong["wer"], wrong["cer"]) == (0, 0)


@pytest.mark.parametrize(
    ("text", "script", "tokenizer"),
    [
        (ZH, "zh", "zh"), (JA, "ja", "char"), (KO, "ko", "char"), (TH, "unspaced", "char"), (RU, "other", "13a"),
        (AR, "other", "13a"), ("12:30", "latin", "13a"), ("我用 Python 3 写的程序", "zh", "zh"),
        ("We greet with 你好 in China every day", "latin", "13a"),
    ],
)  # fmt: skip
def test_bleu_is_tokenised_for_the_script_of_the_references(text, script, tokenizer):
    assert scripts.of([text]) == script
    assert f"tok:{tokenizer}|" in score("bleu", "a prediction", text)[1]
    assert "tok:13a|" in score("bleu_13a", "a prediction", text)[1]


@pytest.mark.parametrize(
    ("predicted", "said", "wer", "cer"),
    [
        ("你好世界", "你好，世界。", 0, 0),
        ("今天 天气 很好", "今天天气很好！", 0, 0),
        ("今天天汽很好", "今天天气很好", 100 / 6, 100 / 6),
        ("１２月３日です", "12月3日です。", 0, 0),
        ("ﾃｽﾄ", "テスト", 0, 0),
        ("我用python写", "我用 Python 写。", 0, 0),
        ("我用python3写", "我用 Python 写", 100 / 4, 100 / 9),  # the word Python of 我 用 Python 写; one letter of 9
        ("สวัสดี ครับ", "สวัสดีครับ", 0, 0),
        ("나는 간다", "나는 갔다", 50, 20),  # Korean has spaces, which count
        ("می\u200cروم", "میروم", 0, 0),
        ("it\u00b4s fine", "it s fine", 0, 0),
    ],
)
def test_error_rates_by_hand(predicted, said, wer, cer):
    assert {name: score("wer", predicted, said)[0][name] for name in ("wer", "cer")} == pytest.approx(
        {"wer": wer, "cer": cer}
    )


def test_signatures_name_the_words():
    assert "each letter of scripts without spaces is a word" in score("wer", "x", ZH)[1]
    assert "scripts without spaces" not in score("wer", "x", "a cat")[1]
    assert "scripts without spaces" in score("rouge", "x", ZH)[1]
    assert score("rouge", "x", "a cat")[1].endswith("first reference")
    assert "punctuation (Unicode)" in score("squad", "x", ZH)[1]
    assert "no articles" in score("squad", "x", "a cat")[1]


def test_rouge_by_hand():
    # Of 5 and 6 characters 4 are shared, of 4 and 5 pairs 2 (我喜, 喜欢).
    expected = {"rouge1": 800 / 11, "rouge2": 400 / 9, "rougeL": 800 / 11, "rougeLsum": 800 / 11}
    assert score("rouge", "我喜欢大狗", "我喜欢小的狗")[0] == pytest.approx(expected)
    assert score("rouge", "Кошки любят рыбу", "кошки ловят рыбу!")[0]["rouge1"] == pytest.approx(200 / 3)
    assert score("rouge", "Größe", "Grobe")[0]["rouge1"] == 0, "not gr and e"


def test_rouge_of_english_is_that_of_rouge_score():
    rng = np.random.default_rng(0)
    words = ["the", "Running", "meetings,", "cat's", "U.S.", "3.5%", "well-known", "snake_case", "\n", "!"]
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for _ in range(200):
        one, other = (" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(2))
        expected = {name: 100 * each.fmeasure for name, each in theirs.score(other, one).items()}
        assert score("rouge", one, other)[0] == pytest.approx(expected)
    assert scripts.words("the cat's 3.5% of it_all") == ["the", "cat", "s", "3", "5", "of", "it", "all"]


def mlqa_tokens(text):
    """What MLQA's evaluation makes of Chinese: its segmentation, written anew."""
    gone = set(string.punctuation) | {chr(code) for code in range(0x10000) if unicodedata.category(chr(code))[0] == "P"}
    kept = "".join(letter for letter in text.lower() if letter not in gone)
    return re.sub("([\u4e00-\u9fa5])", r" \1 ", kept).split()


def test_squad_of_chinese_is_that_of_mlqa():
    rng = np.random.default_rng(0)
    letters = [*"我喜欢猫和狗，。“”（）·-年19 ", "IBM", " the "]
    text = lambda: "猫" + "".join(rng.choice(letters, rng.integers(0, 9)))
    for _ in range(200):
        one, other = text(), text() + "喜欢猫和狗"
        ours, theirs = Counter(mlqa_tokens(one)), Counter(mlqa_tokens(other))
        expected = {
            "exact_match": 100.0 * (mlqa_tokens(one) == mlqa_tokens(other)),
            "f1": 200 * (ours & theirs).total() / (ours.total() + theirs.total()),
        }
        assert score("squad", one, other)[0] == pytest.approx(expected)


def test_questions_without_answer_are_scored_as_squad_2_does():
    examples = [{"references": each} for each in (("",), ("",), ("a cat",), ("the", "dog"), ("",), ("a cat sat",))]
    predictions = ["", "cat", "", "dog", "The.", "cat ran"]
    # By hand, EM and F1: 1 1, 0 0, 0 0, 1 1, 1 1 (articles are nothing), 0 and 1/2 (one shared word of two and two).
    scores, signature = text_scores.squad(predictions, examples)
    assert scores == pytest.approx({"exact_match": 100 * 3 / 6, "f1": 100 * 3.5 / 6})
    assert "SQuAD v2.0" in signature
    assert score("squad", "the", "a")[0] == {"exact_match": 100, "f1": 0}, "as v1.1 has it, where all have answers"


def test_accuracy_knows_one_letter_in_two_encodings():
    assert score("accuracy", "cafe\u0301", "caf\u00e9")[0] == {"accuracy": 1}
