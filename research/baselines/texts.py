"""Text-to-text baselines: targets are retrieved, extracted from the source or, if there are few, classified."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from research.baselines import scoring
from research.baselines.base import Baseline, Predict, Scores
from research.metrics import scripts

MOST_CLASSES = 100  # with more distinct targets, there are no classifiers
CHUNK = 1024  # sources that are compared with the training split at a time
ENDS = ".?!"


class TextPair(NamedTuple):
    """An example. `parts` are the fields of the source: question and context, or the source alone."""

    source: str
    parts: tuple[str, ...]
    target: str


class Texts:
    """Baselines for pairs of texts; they depend on the number of targets and on whether sources are questions."""

    def __init__(self, task: Any, data: Any):
        self._task, self._data = task, data
        self._pairs: dict[str, list[TextPair]] = {}

    def baselines(self) -> list[Baseline]:
        """The most frequent and the nearest training target; classifiers; parts of the context or of the source."""
        found = [
            Baseline("most frequent target", lambda value: lambda pairs: [self._most_frequent] * len(pairs)),
            Baseline("target of the nearest training source, TF-IDF", self._nearest, "longest n-gram", (1, 2)),
        ]
        classes = len({pair.target for pair in self._train}) <= MOST_CLASSES
        if classes:
            found += self._classifiers()
        if len(self._train[0].parts) > 1:
            return found + self._of_a_question()
        return found if classes else [*found, _of_a_source(self._train)]

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the predicted text, or class, of each example."""
        score = scoring.named if self._data.class_names else scoring.written
        return score(self._task, self._data, split, predict(self._split(split)))

    def _split(self, split: str) -> list[TextPair]:
        if split not in self._pairs:
            template, prepared = self._data.prepared.template, self._data.prepared
            self._pairs[split] = []
            for index in range(self._data.counts[split]):
                fields = prepared.fields(split, index)
                parts = tuple(str(fields[name]) for name in self._fields)
                self._pairs[split].append(TextPair(template.texts(fields)[0], parts, template.texts(fields)[1]))
        return self._pairs[split]

    @cached_property
    def _fields(self) -> list[str]:
        """The fields of the source by amount of text in train, most last: contexts are longer than questions."""
        prepared = self._data.prepared
        examples = [prepared.fields("train", index) for index in range(min(1000, self._data.counts["train"]))]
        return sorted(prepared.template.source_fields, key=lambda name: sum(len(str(each[name])) for each in examples))

    @property
    def _train(self) -> list[TextPair]:
        return self._split("train")

    @cached_property
    def _most_frequent(self) -> str:
        return most_common(pair.target for pair in self._train)

    def _nearest(self, longest: int) -> Predict:
        vectors = tf_idf(longest)
        known = vectors.fit_transform([pair.source for pair in self._train])

        def predict(pairs: Sequence[TextPair]) -> list[str]:
            rows = vectors.transform([pair.source for pair in pairs])
            nearest = [(rows[start : start + CHUNK] @ known.T) for start in range(0, len(pairs), CHUNK)]
            return [self._train[row].target for part in nearest for row in np.asarray(part.argmax(1)).ravel()]

        return predict

    def _classifiers(self) -> list[Baseline]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import BernoulliNB, MultinomialNB

        regression = lambda value: LogisticRegression(C=value, max_iter=2000)
        smoothing, strength = (0.1, 0.3, 1.0, 3.0), (0.3, 1.0, 3.0, 10.0)
        kinds: dict[str, tuple[Callable[[Any], Any], str, tuple[float, ...]]] = {
            "Bernoulli naive Bayes": (lambda value: BernoulliNB(alpha=value), "alpha", smoothing),
            "multinomial naive Bayes, TF-IDF": (lambda value: MultinomialNB(alpha=value), "alpha", smoothing),
            "logistic regression, TF-IDF": (regression, "C", strength),
        }
        return [
            Baseline(f"{name} of words and their pairs", self._classifier(make), setting, values)
            for name, (make, setting, values) in kinds.items()
        ]

    def _classifier(self, make: Callable[[Any], Any]) -> Callable[[Any], Predict]:
        def fit(value: Any) -> Predict:
            from sklearn.pipeline import make_pipeline

            model = make_pipeline(tf_idf(2), make(value))
            model.fit([pair.source for pair in self._train], [pair.target for pair in self._train])
            return lambda pairs: list(model.predict([pair.source for pair in pairs]))

        return fit

    def _of_a_question(self) -> list[Baseline]:
        each = lambda write: lambda value: lambda pairs: [write(" ".join(p.parts[:-1]), p.parts[-1]) for p in pairs]
        around = lambda value: each(lambda question, context: words_near_question(question, context, value))(value)
        return [
            Baseline("most frequent target of the same question", self._of_the_same_question),
            Baseline("the context", each(lambda question, context: context)),
            Baseline("the context without the words of the question", each(without)),
            Baseline(
                "the sentence with most words of the question, without them",
                each(lambda question, context: without(question, best_matching_sentence(question, context))),
            ),
            Baseline("words of the context near those of the question", around, "words", (2, 3, 5, 8)),
        ]

    def _of_the_same_question(self, value: None) -> Predict:
        targets = defaultdict(list)
        for pair in self._train:
            targets[pair.parts[:-1]].append(pair.target)
        most = {question: most_common(answers) for question, answers in targets.items()}
        return lambda pairs: [most.get(pair.parts[:-1], self._most_frequent) for pair in pairs]


def _of_a_source(train: Sequence[TextPair]) -> Baseline:
    """The source if targets have similar lengths, as in translation; else its first words, as in summarization."""
    length = lambda texts: statistics.median(len(scripts.split_unspaced(text)) for text in texts)
    if 2 * length(pair.target for pair in train) >= length(pair.source for pair in train):
        return Baseline("the source", lambda value: lambda pairs: [pair.source for pair in pairs])
    first = lambda value: lambda pairs: [" ".join(scripts.split_unspaced(pair.source)[:value]) for pair in pairs]
    return Baseline("the first words of the source", first, "words", (5, 10, 15, 20))


def tf_idf(longest: int) -> Any:
    """scikit-learn's TF-IDF of word n-grams, n up to `longest`; in unspaced scripts, a character is a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        tokenizer=words,
        token_pattern=None,  # pyright: ignore[reportArgumentType]  inferred from the default; None where it has no use
        lowercase=False,
        ngram_range=(1, longest),
        sublinear_tf=True,
    )


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return scripts.words(scripts.fold(text))


def most_common(texts: Any) -> str:
    """The most frequent text, the alphabetically first of equally frequent ones."""
    return min(Counter(texts).items(), key=lambda item: (-item[1], item[0]))[0]


def without(question: str, text: str) -> str:
    """`text` without the words of the question."""
    excluded = set(words(question))
    return " ".join(word for word in text.split() if not excluded & set(words(word)))


def best_matching_sentence(question: str, context: str) -> str:
    """The sentence of the context with most distinct words of the question; of equal ones, the last."""
    sentences, sentence = [], []
    for word in context.split():
        sentence.append(word)
        if word[-1] in ENDS:
            sentences, sentence = [*sentences, " ".join(sentence)], []
    sentences += [" ".join(sentence)] if sentence else []
    wanted = set(words(question))
    return max(reversed(sentences), key=lambda text: len(wanted & set(words(text))), default="")


def words_near_question(question: str, context: str, count: int) -> str:
    """The `count` words of the context nearest to the median position of the question's words, without the latter.

    If no word of the question occurs in the context, the first `count` words.
    """
    wanted, pieces = set(words(question)), context.split()
    shared = [bool(wanted & set(words(piece))) for piece in pieces]
    middle = statistics.median([position for position, both in enumerate(shared) if both] or [0])
    others = sorted((abs(position - middle), position) for position, both in enumerate(shared) if not both)
    return " ".join(pieces[position] for position in sorted(position for _, position in others[:count]))
