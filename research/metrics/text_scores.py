"""Scores of generated text against references, computed by the implementations used for published results.

A metric is a function of the predictions and of the examples, each a mapping with FIELDS. It returns {name: value} and
a signature that describes how they were computed. BLEU, chrF, ROUGE, exact match and F1 are percentages, as in their
papers (rouge-score itself returns fractions); `accuracy`, as everywhere in Tessera, and TweetQA's scores are fractions.
"""

import collections
import itertools
import math
import re
import statistics
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from research.metrics import scripts

Examples = Sequence[Mapping[str, Any]]
Scored = tuple[dict[str, float], str]  # {name: value}, signature

# The fields of an example that metrics read: the accepted texts, the original one first, and groups.
FIELDS = ("references", "task", "speaker")
NEEDED = {"accuracy_by_task": "task", "wer_by_speaker": "speaker"}  # metric -> the field that it groups by
NORMALISED = "lower case, no punctuation, no articles"
SPOKEN = "NFKC, lower case, no punctuation but apostrophes in words"
# By the script of most words of the references; "13a" for others. MeCab would split Japanese and Korean into words.
BLEU_TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "unspaced": "char"}


def bleu(predictions: Sequence[str], examples: Examples) -> Scored:
    """Corpus BLEU of detokenised text (Papineni et al., 2002; Post, 2018) over all references.

    The tokenizer is that of BLEU_TOKENIZERS for the script of the references, else 13a; the signature names it.
    `bleu_13a`, `bleu_zh` and `bleu_char` have a fixed tokenizer.
    """
    return _sacrebleu("bleu", "BLEU", predictions, examples, tokenize=_bleu_tokenizer("bleu", examples))


def _bleu_tokenizer(name: str, examples: Examples) -> str:
    """The tokenizer of the metric `name`: fixed for `bleu_zh` and the like, else by the script of the references."""
    script = scripts.of(reference for example in examples for reference in example["references"])
    return name.partition("_")[2] or BLEU_TOKENIZERS.get(script, "13a")


def bleu_counts(name: str, predictions: Sequence[str], examples: Examples) -> list[list[float]]:
    """The sufficient statistics of each example for the metric `name`, to be summed for `bleu_of`.

    They are the matching n-grams of 1 to 4 words, all n-grams, and the lengths of the prediction and the reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(tokenize=_bleu_tokenizer(name, examples), effective_order=True)  # does not change the counts
    pairs = zip(predictions, examples, strict=True)
    found = [scorer.sentence_score(prediction, list(example["references"])) for prediction, example in pairs]
    return [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found]


def bleu_of(counts: Sequence[float]) -> float:
    """Corpus BLEU of summed `bleu_counts`."""
    from sacrebleu.metrics.bleu import BLEU

    right, totals, (ours, theirs) = ([int(each) for each in part] for part in (counts[:4], counts[4:8], counts[8:]))
    return BLEU.compute_bleu(right, totals, ours, theirs, smooth_method="exp").score


def bleu_13a(predictions: Sequence[str], examples: Examples) -> Scored:
    """As `bleu`, always with the tokenizer 13a, which is for European languages."""
    return _sacrebleu("bleu_13a", "BLEU", predictions, examples, tokenize="13a")


def bleu_zh(predictions: Sequence[str], examples: Examples) -> Scored:
    """As `bleu`, always tokenised for Chinese: each of its characters is a token, the rest is as with 13a."""
    return _sacrebleu("bleu_zh", "BLEU", predictions, examples, tokenize="zh")


def bleu_char(predictions: Sequence[str], examples: Examples) -> Scored:
    """As `bleu`, always over characters."""
    return _sacrebleu("bleu_char", "BLEU", predictions, examples, tokenize="char")


def chrf(predictions: Sequence[str], examples: Examples) -> Scored:
    """Corpus chrF2 (Popovic, 2015), over characters, against the best of all references."""
    return _sacrebleu("chrf", "CHRF", predictions, examples)


def rouge(predictions: Sequence[str], examples: Examples) -> Scored:
    """Mean F1 of ROUGE-1, -2, -L and -Lsum (Lin, 2004) with Porter's stemmer, against the first reference.

    Words are lower-cased and tokenised by rouge-score for ASCII text, see _Words for other text. The sentences of Lsum
    are lines. Only the first reference counts, as in the results of PEGASUS (Zhang et al., 2020) on AESLC, which
    compare with the original subject.
    """
    each, signature = rouge_each(predictions, examples)
    return {name: 100 * statistics.fmean(scores) for name, scores in each.items()}, signature


def rouge_each(predictions: Sequence[str], examples: Examples) -> tuple[dict[str, list[float]], str]:
    """The scores of each example, as fractions, whose means are `rouge`; and its signature."""
    return _rouge([example["references"][:1] for example in examples], predictions, "first reference")


def rouge_multi(predictions: Sequence[str], examples: Examples) -> Scored:
    """As `rouge`, with the best F1 over all references, as `rouge1_multi` and so on."""
    each, signature = _rouge([example["references"] for example in examples], predictions, "best of all references")
    return {f"{name}_multi": 100 * statistics.fmean(scores) for name, scores in each.items()}, signature


def accuracy(predictions: Sequence[str], examples: Examples) -> Scored:
    """The share of predictions that equal a reference, after stripping white space and NFC normalisation."""
    return {"accuracy": statistics.fmean(right(predictions, examples))}, "equal to a reference"


def accuracy_by_task(predictions: Sequence[str], examples: Examples) -> Scored:
    """`accuracy` of the examples of each `task`, as `accuracy_task_03`, and the mean over tasks, `accuracy_mean`.

    Raises ValueError for examples without a task.
    """
    if not all("task" in example for example in examples):
        raise ValueError("the metric accuracy_by_task needs a data set whose examples have the field task")
    tasks = collections.defaultdict(list)
    for example, is_right in zip(examples, right(predictions, examples), strict=True):
        tasks[example["task"]].append(is_right)
    each = {f"accuracy_task_{task:02}": statistics.fmean(tasks[task]) for task in sorted(tasks)}
    return {"accuracy_mean": statistics.fmean(each.values()), **each}, "equal to a reference; the mean is over tasks"


def squad(predictions: Sequence[str], examples: Examples) -> Scored:
    """Exact match and token F1 of the SQuAD evaluation (Rajpurkar et al., 2016): the best over the references.

    If any question is unanswerable, with only empty references, all are scored as in SQuAD v2.0 (Rajpurkar et al.,
    2018): an empty answer is correct for these and wrong for others. See `_answers` for scripts.
    """
    each, signature = squad_each(predictions, examples)
    return {name: 100 * statistics.fmean(scores) for name, scores in each.items()}, signature


def squad_each(predictions: Sequence[str], examples: Examples) -> tuple[dict[str, list[float]], str]:
    """The scores of each example, as fractions, whose means are `squad`; and its signature."""
    pairs, how = _answers(predictions, examples)
    version, f1 = "v1.1", _token_f1
    if any(not "".join(example["references"]).strip() for example in examples):
        version, f1 = "v2.0", lambda one, other: _token_f1(one, other) if one and other else float(one == other)
        pairs = [(ours, [each for each in theirs if each] or [""]) for ours, theirs in pairs]
    best = lambda measure: [max(measure(ours, each) for each in theirs) for ours, theirs in pairs]
    scores = {"exact_match": best(lambda one, other: float(one == other)), "f1": best(f1)}
    return scores, f"SQuAD {version}: {how}; best of all references"


def tweetqa(predictions: Sequence[str], examples: Examples) -> Scored:
    """Mean BLEU-1 and ROUGE-L of the TweetQA evaluation (Xiong et al., 2019), over normalised answers.

    They are NLTK's `sentence_bleu` with weights (1, 0, 0, 0) and the ROUGE-L of coco-caption, each against all
    references. Its METEOR is left out, since it needs a Java program.
    """
    each, signature = tweetqa_each(predictions, examples)
    return {name: statistics.fmean(scores) for name, scores in each.items()}, signature


def tweetqa_each(predictions: Sequence[str], examples: Examples) -> tuple[dict[str, list[float]], str]:
    """The scores of each example whose means are `tweetqa`, and its signature."""
    pairs, how = _answers(predictions, examples)
    scores = {"bleu1": [_bleu1(*pair) for pair in pairs], "rouge_l": [_rouge_l(*pair) for pair in pairs]}
    return scores, f"TweetQA: {how}; all references; BLEU-1 by sentence, ROUGE-L with beta 1.2; no METEOR"


def wer(predictions: Sequence[str], examples: Examples) -> Scored:
    """Corpus WER and CER, in percent of the reference's words and characters, and counts of word errors, by jiwer.

    Both texts are normalised as in SPOKEN. `substitutions`, `insertions` and `deletions` count words. In scripts
    without spaces each letter is a word, and CER counts no spaces beside one.
    """
    import jiwer

    ours, theirs = _spoken(predictions, examples)
    spaced = lambda side: [" ".join(each) for each in side]
    written = lambda side: [scripts.written(each) for each in side]
    words = jiwer.process_words(spaced(theirs), spaced(ours))
    characters = jiwer.process_characters(written(theirs), written(ours))
    scores = {"wer": 100 * words.wer, "cer": 100 * characters.cer}
    scores |= {name: float(getattr(words, name)) for name in ("substitutions", "insertions", "deletions")}
    unspaced = any(scripts.has_unspaced(word) for each in theirs for word in each)
    how = f"{SPOKEN}; {scripts.UNSPACED}, CER without their spaces" if unspaced else SPOKEN
    return scores, f"jiwer {metadata.version('jiwer')}, {how}"


def word_errors(predictions: Sequence[str], examples: Examples) -> tuple[list[int], list[int]]:
    """The number of word errors of each prediction, and of words of its reference; `wer` is the ratio of their sums."""
    import jiwer

    ours, theirs = _spoken(predictions, examples)
    pairs = zip(theirs, ours, strict=True)
    counted = [jiwer.process_words(" ".join(reference), " ".join(words)) for reference, words in pairs]
    return [each.substitutions + each.insertions + each.deletions for each in counted], list(map(len, theirs))


def wer_by_speaker(predictions: Sequence[str], examples: Examples) -> Scored:
    """`wer` of the examples of each `speaker`, as `wer_speaker_NAME`. Raises ValueError for examples without one."""
    if not all(example.get("speaker") for example in examples):
        raise ValueError("the metric wer_by_speaker needs a data set whose examples have the field speaker")
    groups = collections.defaultdict(lambda: ([], []))
    for prediction, example in zip(predictions, examples, strict=True):
        groups[example["speaker"]][0].append(prediction)
        groups[example["speaker"]][1].append(example)
    scored = {speaker: wer(*groups[speaker]) for speaker in sorted(groups)}
    _, signature = next(iter(scored.values()))
    return {f"wer_speaker_{name}": scores["wer"] for name, (scores, _) in scored.items()}, signature


METRICS: dict[str, Callable[[Sequence[str], Examples], Scored]] = {
    metric.__name__: metric
    for metric in (
        bleu,
        bleu_13a,
        bleu_zh,
        bleu_char,
        chrf,
        rouge,
        rouge_multi,
        accuracy,
        accuracy_by_task,
        squad,
        tweetqa,
        wer,
        wer_by_speaker,
    )
}


def normalise_answer(text: str) -> str:
    """`text` in lower case, without ASCII punctuation, articles and extra white space, as in SQuAD v1.1."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def normalise_spoken(text: str) -> str:
    """`text` as normalised for CER: see SPOKEN and scripts.written."""
    return scripts.written(scripts.spoken(text))


def _spoken(predictions: Sequence[str], examples: Examples) -> tuple[list[list[str]], list[list[str]]]:
    """The words of predictions and of their first references."""
    ours = [scripts.spoken(prediction) for prediction in predictions]
    theirs = [scripts.spoken(example["references"][0]) for example in examples]
    if not all(theirs):
        empty = examples[theirs.index([])]["references"][0]
        raise ValueError(f"the reference {empty!r} has no words ({SPOKEN}), so WER is undefined")
    return ours, theirs


def _answers(predictions: Sequence[str], examples: Examples) -> tuple[list[tuple[str, list[str]]], str]:
    """Normalised answers with their normalised references, and how they were normalised.

    References mostly in Latin letters are normalised as in the SQuAD script. Others as in MLQA (Lewis et al., 2020):
    all Unicode punctuation is removed, articles are kept, and letters of scripts without spaces are words.
    """
    script = scripts.of(reference for example in examples for reference in example["references"])
    normalise, how = normalise_answer, NORMALISED
    if script != "latin":
        normalise, how = _normalise_foreign, f"lower case, no punctuation (Unicode); {scripts.UNSPACED}"
    pairs = [
        (normalise(prediction), [normalise(reference) for reference in example["references"]])
        for prediction, example in zip(predictions, examples, strict=True)
    ]
    return pairs, how


def _normalise_foreign(text: str) -> str:
    text = scripts.without_punctuation(unicodedata.normalize("NFC", text.lower()))
    return " ".join(scripts.split_unspaced(text))


def right(predictions: Sequence[str], examples: Examples) -> list[bool]:
    """Whether each prediction equals a reference, see `accuracy`."""
    plain = lambda text: unicodedata.normalize("NFC", text).strip()
    return [
        plain(prediction) in {plain(reference) for reference in example["references"]}
        for prediction, example in zip(predictions, examples, strict=True)
    ]


def _sacrebleu(name: str, metric: str, predictions: Sequence[str], examples: Examples, **options) -> Scored:
    import sacrebleu.metrics  # like rouge-score below, not needed to train

    scorer = getattr(sacrebleu.metrics, metric)(**options)
    # The first reference of each example, the second of each, ...; None for an example with fewer.
    streams = itertools.zip_longest(*(example["references"] for example in examples))
    score = scorer.corpus_score(list(predictions), [list(stream) for stream in streams]).score
    return {name: score}, str(scorer.get_signature())


class _Words:
    """rouge-score's tokenizer for ASCII text, and `scripts.words` for other text, whose letters it would drop."""

    def __init__(self):
        from rouge_score import tokenizers

        self._ascii = tokenizers.DefaultTokenizer(use_stemmer=True).tokenize

    def tokenize(self, text: str) -> list[str]:
        if text.isascii():
            return self._ascii(text)
        return [part for word in scripts.words(scripts.fold(text)) for part in self._stemmed(word)]

    def _stemmed(self, word: str) -> list[str]:
        return self._ascii(word) if word.isascii() else [word]


def _rouge(
    references: Sequence[Sequence[str]], predictions: Sequence[str], which: str
) -> tuple[dict[str, list[float]], str]:
    from rouge_score import rouge_scorer

    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scorer = rouge_scorer.RougeScorer(names, tokenizer=_Words())
    scores = [scorer.score_multi(*pair) for pair in zip(references, predictions, strict=True)]
    each = {name: [score[name].fmeasure for score in scores] for name in names}
    ascii_only = all(text.isascii() for texts in (*references, predictions) for text in texts)
    how = "" if ascii_only else f", words of Unicode, {scripts.UNSPACED}"
    return each, f"rouge-score {metadata.version('rouge-score')}, F1, Porter stemmer, {which}{how}"


def _token_f1(prediction: str, reference: str) -> float:
    ours, theirs = prediction.split(), reference.split()
    common = (collections.Counter(ours) & collections.Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _bleu1(prediction: str, references: Sequence[str]) -> float:
    """Clipped unigram precision, with the brevity penalty of the nearest reference length (Papineni et al., 2002)."""
    words, others = prediction.split(), [reference.split() for reference in references]
    if not words:
        return 0.0
    most = collections.Counter()
    for other in others:
        most |= collections.Counter(other)
    precision = (collections.Counter(words) & most).total() / len(words)
    nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return precision * min(1.0, math.exp(1 - nearest / len(words)))


def _rouge_l(prediction: str, references: Sequence[str], beta: float = 1.2) -> float:
    """F score of the longest common subsequence, from the best precision and the best recall over the references."""
    # Not split(): to coco-caption, a text without words is one empty word.
    words, others = prediction.split(" "), [reference.split(" ") for reference in references]
    common = [_longest_common(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(count / len(other) for count, other in zip(common, others, strict=True))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    best = [0] * (len(other) + 1)
    for word in one:
        previous = 0
        for end, another in enumerate(other, start=1):
            previous, best[end] = best[end], previous + 1 if word == another else max(best[end], best[end - 1])
    return best[-1]
