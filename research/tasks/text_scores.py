"""Scores of generated text against references, by the implementations that published results were made with.

A metric is a function of the predictions and, for each, an example: a mapping that holds the accepted texts as
`references`, the first of which is the original one. It returns {name: value}. BLEU, chrF, ROUGE, exact match and F1
are percentages, as their papers give them; `accuracy`, as everywhere in Tessera, and TweetQA's scores are fractions.
"""

import collections
import math
import re
import statistics
import string
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

Examples = Sequence[Mapping[str, Any]]
Scores = dict[str, float]


def bleu(predictions: Sequence[str], examples: Examples) -> Scores:
    """Corpus BLEU of detokenised text (Post, 2018), tokenised by 13a; the first reference counts."""
    return {"bleu": _bleu("13a").corpus_score(list(predictions), [_first(examples)]).score}


def bleu_zh(predictions: Sequence[str], examples: Examples) -> Scores:
    """As `bleu`, for Chinese: each character is a token."""
    return {"bleu_zh": _bleu("zh").corpus_score(list(predictions), [_first(examples)]).score}


def chrf(predictions: Sequence[str], examples: Examples) -> Scores:
    """Corpus chrF2 (Popovic, 2015), over characters; the first reference counts."""
    return {"chrf": _chrf().corpus_score(list(predictions), [_first(examples)]).score}


def rouge(predictions: Sequence[str], examples: Examples) -> Scores:
    """Mean F1 of ROUGE-1, -2, -L and -Lsum (Lin, 2004) with Porter's stemmer; the first reference counts.

    Lsum takes lines as sentences. The first reference only, as the results on AESLC of PEGASUS (Zhang et al., 2020).
    """
    from rouge_score import rouge_scorer

    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(_first(examples), predictions, strict=True)]
    return {name: 100 * statistics.fmean(score[name].fmeasure for score in scores) for name in names}


def accuracy(predictions: Sequence[str], examples: Examples) -> Scores:
    """The share of predictions that are one of the references, but for white space at their ends."""
    return {"accuracy": statistics.fmean(_right(predictions, examples))}


def accuracy_by_task(predictions: Sequence[str], examples: Examples) -> Scores:
    """`accuracy` of the examples of each `task`, as `accuracy_task_03`, and the mean over tasks."""
    tasks = collections.defaultdict(list)
    for example, right in zip(examples, _right(predictions, examples), strict=True):
        tasks[int(example["task"])].append(right)
    each = {f"accuracy_task_{task:02}": statistics.fmean(tasks[task]) for task in sorted(tasks)}
    return {"accuracy_mean": statistics.fmean(each.values()), **each}


def squad(predictions: Sequence[str], examples: Examples) -> Scores:
    """Exact match and token F1 of the SQuAD v1.1 evaluation (Rajpurkar et al., 2016): the best over the references."""
    best = lambda measure: 100 * statistics.fmean(
        max(measure(normalise_answer(prediction), normalise_answer(reference)) for reference in example["references"])
        for prediction, example in zip(predictions, examples, strict=True)
    )
    return {"exact_match": best(lambda one, other: float(one == other)), "f1": best(_token_f1)}


def tweetqa(predictions: Sequence[str], examples: Examples) -> Scores:
    """Mean BLEU-1 and ROUGE-L of the TweetQA evaluation (Xiong et al., 2019), over normalised answers.

    Its METEOR is left out, since it needs a Java program.
    """
    pairs = [
        (normalise_answer(prediction).split(), [normalise_answer(each).split() for each in example["references"]])
        for prediction, example in zip(predictions, examples, strict=True)
    ]
    return {
        "bleu1": statistics.fmean(_bleu1(*pair) for pair in pairs),
        "rouge_l": statistics.fmean(_rouge_l(*pair) for pair in pairs),
    }


METRICS: dict[str, Callable[[Sequence[str], Examples], Scores]] = {
    metric.__name__: metric for metric in (bleu, bleu_zh, chrf, rouge, accuracy, accuracy_by_task, squad, tweetqa)
}


def signatures(metric: str) -> dict[str, str]:
    """{name of a score: how it was computed} of one of METRICS, in the form of its library where that has one."""
    rouge_text = f"rouge-score {metadata.version('rouge-score')}, F1, Porter stemmer, first reference"
    normalised = "lower case, no punctuation, no articles; best of all references"
    return {
        "bleu": lambda: {"bleu": _with_signature(_bleu("13a"))},
        "bleu_zh": lambda: {"bleu_zh": _with_signature(_bleu("zh"))},
        "chrf": lambda: {"chrf": _with_signature(_chrf())},
        "rouge": lambda: dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), rouge_text),
        "accuracy": lambda: {"accuracy": "equal to a reference"},
        "accuracy_by_task": lambda: {"accuracy_mean": "mean over tasks of: equal to a reference"},
        "squad": lambda: dict.fromkeys(("exact_match", "f1"), f"SQuAD v1.1: {normalised}"),
        "tweetqa": lambda: {
            "bleu1": "TweetQA: unigram precision with brevity penalty; lower case, no punctuation, no articles",
            "rouge_l": "TweetQA: ROUGE-L, beta 1.2; lower case, no punctuation, no articles",
        },
    }[metric]()


def normalise_answer(text: str) -> str:
    """`text` in lower case, without punctuation (ASCII), articles and superfluous spaces, as SQuAD v1.1 compares."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _first(examples: Examples) -> list[str]:
    return [example["references"][0] for example in examples]


def _right(predictions: Sequence[str], examples: Examples) -> list[bool]:
    return [
        prediction.strip() in {reference.strip() for reference in example["references"]}
        for prediction, example in zip(predictions, examples, strict=True)
    ]


def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer)


def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _with_signature(metric: Any) -> str:
    metric.corpus_score([""], [["a"]])  # only then does it know how many references there are
    return str(metric.get_signature())


def _token_f1(prediction: str, reference: str) -> float:
    ours, theirs = prediction.split(), reference.split()
    common = (collections.Counter(ours) & collections.Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _bleu1(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Clipped unigram precision, with a penalty where the nearest reference is longer (Papineni et al., 2002)."""
    if not prediction:
        return 0.0
    most = collections.Counter()
    for reference in references:
        most |= collections.Counter(reference)
    precision = (collections.Counter(prediction) & most).total() / len(prediction)
    length = len(prediction)
    nearest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    return precision * min(1.0, math.exp(1 - nearest / length))


def _rouge_l(prediction: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2) -> float:
    """F of the longest common subsequence, of the best precision and the best recall over the references."""
    common = [_longest_common(prediction, reference) for reference in references]
    precision = max(count / max(len(prediction), 1) for count in common)
    recall = max(count / max(len(reference), 1) for count, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    best = [0] * (len(other) + 1)
    for word in one:
        previous = 0
        for place, another in enumerate(other, start=1):
            previous, best[place] = best[place], previous + 1 if word == another else max(best[place], best[place - 1])
    return best[-1]
