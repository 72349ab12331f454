"""Pairs of texts as a data set: every pair is trained on, every text of a split is evaluated once."""

import itertools
import json

import numpy as np
import pytest

from research.data.text import dataset, pairs
from tests.data.text.test_tokenizer import TEXTS, write


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    (path / "asked").mkdir()
    write(path)
    for split, count in (("train", 30), ("validation", 6), ("test", 20)):
        lines = [{"question": f"number {n}", "context": TEXTS[n // 3]} for n in range(count)]  # of three one context
        (path / "asked" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def load(place):
    def load(**settings):
        fixed = {"name": f"folder:{place}/asked", "dir": str(place), "vocabulary": str(place), "vocab_size": 300}
        fixed |= {"source": "{question}", "target": "{context}", "source_length": 16, "target_length": 48}
        data = pairs.load(dataset.TextSpec(**fixed | settings))
        data.prepare()
        return data

    return load


def test_candidates_are_the_distinct_targets(load):
    data = load()
    own, firsts = data.own("test"), data.firsts("test")
    targets = [data.reference("test", index)["target"] for index in range(20)]
    assert len(firsts) == len(set(targets)) == 7
    for index in range(20):
        assert targets[firsts[own[index]]] == targets[index]
    assert all(own[first] == number for number, first in enumerate(firsts)) and (np.diff(firsts) > 0).all()


def test_evaluation_holds_every_text_of_both_sides_once(load):
    data, seen = load(), {}
    for batch in data.eval_batches("test", 4):
        assert set(batch) == {"source", "source_segments", "source_positions", "index", "weight"}
        for row in np.flatnonzero(batch["weight"]):
            ids = batch["source"][row][batch["source_segments"][row] > 0]
            assert seen.setdefault(int(batch["index"][row]), ids.tolist()) is not None
        assert (batch["index"][batch["weight"] == 0] == -1).all()
    assert sorted(seen) == list(range(27))
    words = data.vocabulary
    texts = [data.reference("test", index)["source"] for index in range(20)]
    texts += [data.reference("test", first)["target"] for first in data.firsts("test")]
    for index, text in enumerate(texts):
        assert seen[index] == [*words.encode(text), words.eos]


def test_digests_are_equal_where_texts_are(load):
    data = load()
    examples = data._examples("train")
    known = [[tuple(pairs.digest(side)) for side in examples[index]] for index in range(30)]
    assert len({source for source, _ in known}) == 30 and len({target for _, target in known}) == 10
    found, parts = set(), set()
    for batch in itertools.islice(data.train_batches(0, 2), -(-len(data.rows) // 2)):
        assert batch["source_digest"].shape == batch["target_digest"].shape == (2, 8, 2)
        for row in range(2):
            count = batch["source_segments"][row].max()
            assert not batch["source_digest"][row, count:].any()
            parts.add(int(count))
            found |= {
                tuple(map(tuple, each))
                for each in zip(
                    *(batch[f"{side}_digest"][row, :count].tolist() for side in ("source", "target")), strict=True
                )
            }
    assert {tuple(map(tuple, np.array(pair).tolist())) for pair in known} == found and max(parts) > 1
    alone = load(pack=False)
    assert alone.rows[0].tolist() == [0] and next(alone.train_batches(0, 2))["source_digest"].shape == (2, 1, 2)


def test_given_texts_of_either_side_are_encoded(load):
    data = load()
    for side, text, length in (("source", "number 3", 16), ("target", TEXTS[0], 48)):
        batch = data.encode([text, text], side)
        assert batch["source"].shape == (2, length) and batch["weight"].tolist() == [1, 1]
        ids = batch["source"][0][batch["source_segments"][0] > 0]
        assert ids.tolist() == [*data.vocabulary.encode(text), data.vocabulary.eos]
    with pytest.raises(ValueError, match="given examples are longer than target_length=48"):
        data.encode([" ".join(TEXTS)], "target")
    with pytest.raises(ValueError, match="is empty"):
        data.encode([" "], "target")
    cut = load(truncate=True).encode([" ".join(TEXTS)], "target")
    assert (cut["source_segments"] == 1).all() and cut["source"][0, -1] == data.vocabulary.eos
    assert data.problem("number 3") is None and "is empty" in str(data.problem(" "))
