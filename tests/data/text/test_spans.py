"""Questions with windows of their contexts as a data set: every window once, answers where they stand, bad input."""

import itertools
import json

import numpy as np
import pytest

from research.data.text import dataset, spans, windows
from tests.data.text.test_tokenizer import TEXTS, write

SOURCE = "{question}\t{context}"


def question(number):
    """As in SQuAD: of the first sentence the animal that sees another; some have none, some a false one."""
    context = " ".join(TEXTS[(number + k) % len(TEXTS)] for k in range(1 + number % 7))
    animal = TEXTS[number % len(TEXTS)].split()[1]
    answers = [] if number % 5 == 4 else [{"text": animal, "answer_start": context.index(animal)}]
    answers = [{"text": "zebra", "answer_start": 0}] if number % 11 == 10 else answers
    return context, {"id": str(number), "question": f"What sees number {number}?", "answers": answers}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("spans")
    (path / "squad").mkdir()
    write(path)
    begin = 0
    for split, count in (("train", 44), ("validation", 11), ("test", 22)):
        pairs = [question(number) for number in range(begin, begin + count)]
        paragraphs = [{"context": context, "qas": [asked]} for context, asked in pairs]
        (path / "squad" / f"{split}.json").write_text(json.dumps({"data": [{"title": "a", "paragraphs": paragraphs}]}))
        begin += count
    return path


@pytest.fixture(scope="module")
def load(place):
    def load(stride=8, **settings):
        fixed = {"name": f"folder:{place}/squad", "dir": str(place), "vocabulary": str(place), "vocab_size": 300}
        fixed |= {"source": SOURCE, "target": "{answer}", "source_length": 32, "target_length": 4}
        data = spans.load(dataset.TextSpec(**fixed | settings), stride)
        data.prepare()
        return data

    return load


def number_of(data, split, index):
    """Which of the questions above an example is: they are stored in another order."""
    return int(data.reference(split, index)["id"])


def contexts(data, batch, row):
    """The tokens of the context of a row that is one window, and the index of the first in the whole context."""
    inside = np.flatnonzero(batch["source_context"][row])
    return batch["source"][row, inside], inside[0] + batch["shift"][row]


def test_evaluation_holds_every_window_once(load):
    data = load()
    seen = {}
    for batch in data.eval_batches("test", 4):
        for row in np.flatnonzero(batch["weight"]):
            seen.setdefault(int(batch["index"][row]), []).append((*contexts(data, batch, row), batch["answer"][row, 0]))
        assert (batch["index"][batch["weight"] == 0] == -1).all()
    assert sorted(seen) == list(range(22)) and max(map(len, seen.values())) > 3
    for index, found in seen.items():
        ids = data.vocabulary.encode_with_offsets([data.contexts("test", [index])[0]])[0].ids
        found.sort(key=lambda each: each[1])
        assert [begin for _, begin, _ in found] == [8 * number for number in range(len(found))]
        for tokens, begin, _ in found:
            assert tokens.tolist() == ids[begin : begin + len(tokens)]
        assert found[-1][1] + len(found[-1][0]) == len(ids)
        number, answers = number_of(data, "test", index), [answer.tolist() for *_, answer in found]
        nowhere = [-1, -1] if number % 11 == 10 else [0, 0]
        if nowhere == [-1, -1] or number % 5 == 4:
            assert answers == [nowhere] * len(found)
        else:  # in the first sentence, and so in the first window
            assert min(answers[0]) > 0 and answers[1:] == [nowhere] * (len(found) - 1)


def test_training_holds_every_window_of_known_answers(load):
    data = load()
    windows_of = data._windows["train"]
    assert set(windows_of.example) == {index for index in range(44) if number_of(data, "train", index) % 11 != 10}
    assert sorted(np.concatenate(data.rows).tolist()) == list(range(len(windows_of)))
    assert len(data.rows) < len(windows_of)
    answers = set()
    for batch in itertools.islice(data.train_batches(0, 2), -(-len(data.rows) // 2)):
        assert batch["source"].shape == (2, 32) and batch["answer"].shape == (2, 4, 2)
        for row, place in zip(*np.nonzero(batch["answer"][..., 0] > 0), strict=True):
            own = batch["source_segments"][row] == place + 1
            first, last = batch["answer"][row, place]
            answers.add(data.vocabulary.decode(batch["source"][row][own][first : last + 1]))
    assert answers == {"cat", "dog"}


def test_what_is_prepared_says_which_answers_are_missing(place, capsys, tmp_path):
    fixed = {"name": f"folder:{place}/squad", "dir": str(tmp_path), "vocabulary": str(place), "vocab_size": 300}
    data = spans.load(dataset.TextSpec(**fixed, source=SOURCE, target="{answer}", source_length=32), 8)
    data.prepare()
    said = capsys.readouterr().err
    assert "4 of 44 train questions have answers that are not in their context; they are skipped in training" in said
    assert "2 of 22 test questions have answers that are not in their context; they are scored" in said
    assert "8 of 44 train questions have no answer" in said
    assert data.counts == {"train": 44, "validation": 11, "test": 22}
    plain = dataset.load(dataset.TextSpec(**fixed, source=SOURCE, target="{answer}", source_length=200))
    assert plain.prepared._folder_path != data.prepared._folder_path


def test_answers_that_are_no_spans_are_replaced_by_the_nearest_span(place, capsys, tmp_path):
    """The answer `cat zebra` is not in any context; `cat` has an F1 of 2/3 with it."""
    fixed = {"name": f"folder:{place}/squad", "dir": str(tmp_path), "vocabulary": str(place), "vocab_size": 300}
    fixed |= {"source": SOURCE, "target": "{answer} zebra", "source_length": 32, "target_length": 4}
    data = spans.load(dataset.TextSpec(**fixed), 8, min_f1=0.6)
    data.prepare()
    said = capsys.readouterr().err
    near = sum(number % 5 != 4 and number % 11 != 10 for number in range(44))
    assert f"{near} of 44 train questions have answers worded differently from their context" in said
    assert f"{44 - near} of 44 train questions have answers that are not in their context; they are skipped" in said
    found = data._windows["train"]
    for index in range(len(found)):
        first, last = found[index].answer
        if first > 0:
            words = data.reference("train", int(found.example[index]))["answer"]
            assert data.vocabulary.decode(found[index].tokens[first : last + 1]) == words
    assert set(found.example) == {
        index for index in range(44) if data.reference("train", index)["answer"] in ("cat", "dog")
    }
    assert data.reference("train", 0)["target"].endswith(" zebra")  # what is scored
    others = [spans.load(dataset.TextSpec(**fixed), 8, min_f1=least).prepared._folder_path for least in (0, 0.5, 0.6)]
    assert len(set(others)) == 3 and others[2] == data.prepared._folder_path


def test_answers_are_cut_from_the_context_as_it_is_written(load):
    data, given = load(), ["What?\t  The CAT sees\u00a0 a  dog ", "Who?\tA bird."]
    contexts = data.given_contexts(given)
    assert contexts[0] == "  The CAT sees\u00a0 a  dog "
    (ids, _), *_ = data.vocabulary.encode_with_offsets(contexts)
    last = len(ids) - 1
    assert data.cut(contexts, [[(1, 2), (0, last), (-1, -1)], []]) == [["CAT sees", contexts[0].strip(), ""], []]


def test_given_questions_become_windows(load):
    data = load()
    long = " ".join(TEXTS[:6])
    batch = data.encode([f"What?\t{long}", "Who?\tA bird."])
    count = int((batch["index"] == 0).sum())
    assert batch["index"].tolist() == [0] * count + [1] and count > 2 and batch["weight"].all()
    assert batch["source"].shape == (count + 1, 32) and (batch["answer"] == -1).all()
    assert data.problem("What?\tA bird.") is None
    for text, message in (("no tab", "has 1 fields; give question, context"), ("What?\t ", "the context is empty")):
        assert message in str(data.problem(text))
    asked = "what " * 30
    assert "leave less than config.task.doc_stride=8 of source_length=32" in str(data.problem(f"{asked}\t{long}"))
    assert data.problem(f"{asked}\tA bird.") is not None  # which is too long for even so short a context
    cut = load(truncate=True)
    assert cut.problem(f"{asked}\t{long}") is None and cut.encode([f"{asked}\t{long}"])["source"].shape[1] == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "{question} {context}"}, "must be the question, a tab and the context"),
        ({"source": "{question}\t{context}\t{title}"}, "must be the question, a tab and the context"),
        ({"stride": 25}, "config.task.doc_stride=25 leaves no room for questions in config.data.source_length=32"),
        ({"target": "never {answer}"}, "no train target 'never {answer}' is in its context; there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(load, settings, message):
    with pytest.raises(ValueError) as caught:
        load(**settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_tab_may_be_written_as_in_python(load):
    assert load(source=r"{question}\t{context}").prepared._folder_path == load().prepared._folder_path


def test_a_begin_is_taken_from_squad_where_there_is_one():
    fields = {"answers": {"text": ["cat"], "answer_start": np.array([21])}}
    assert spans._begin(fields, "cat") == 21 and spans._begin(fields, "dog") is None
    assert spans._begin({"answers": {"text": ["cat"]}}, "cat") is None and spans._begin({}, "cat") is None
    assert windows.locate("", "A cat.", np.array([[0, 1]])) == (windows.NONE, windows.NONE)
