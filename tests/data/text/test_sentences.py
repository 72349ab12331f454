import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.data import sources
from research.data.text import dataset as text
from research.data.text.sentences import Splitter
from tests import samples

STOP, EOS = 7, 1


@pytest.mark.parametrize(
    ("ids", "sentences"),
    [
        ([1], [[1, 0, 0]]),
        ([3, 7, 4, 5, 7, 1], [[3, 7, 0], [4, 5, 7], [1, 0, 0]]),  # no room for EOS in the last
        ([3, 7, 4, 7, 1], [[3, 7, 0], [4, 7, 1]]),
        ([3, 4, 5, 6, 7, 9, 1], [[3, 4, 5], [6, 7, 0], [9, 1, 0]]),  # one too long goes on
        ([7, 7, 1], [[7, 0, 0], [7, 1, 0]]),
    ],
)
def test_sentences_by_hand(ids, sentences):
    splitter = Splitter((STOP,), 3)
    np.testing.assert_array_equal(splitter(np.array(ids)), sentences)
    assert splitter.count(np.array(ids)) == len(sentences)


@given(st.lists(st.integers(2, 9), max_size=40), st.integers(1, 6))
def test_no_token_is_lost_and_each_sentence_ends_for_a_reason(ids, length):
    ids = np.array([*ids, EOS])
    sentences = Splitter((STOP,), length)(ids)
    np.testing.assert_array_equal(sentences[sentences > 0], ids)
    for number, sentence in enumerate(sentences):
        filled = sentence[sentence > 0]
        assert (sentence[len(filled) :] == 0).all()
        assert len(filled) == length or filled[-1] in (STOP, EOS)
        assert STOP not in filled[:-1] or (filled[-2:].tolist() == [STOP, EOS] and number == len(sentences) - 1)


STORIES = [("Mary went home. John slept? Yes. Who slept?", "John"), ("A cat sat. Who sat?", "A cat")]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a folder of two stories a split, with other settings."""
    place = tmp_path_factory.mktemp("stories")
    for split in sources.SPLITS:
        (place / f"{split}.tsv").write_text("".join(f"{story}\t{answer}\n" for story, answer in STORIES))
    settings = {"vocab_size": 60, "byte_fallback": False, "vocab_coverage": 1.0, "target_length": 16}
    settings |= {"source_length": 6, "sentence_length": 24, "name": f"folder:{place}", "dir": str(place / "prepared")}
    return lambda **other: samples.prepared(text.load(text.TextSpec(**{**settings, **other})))


def sentences_of(data, batch):
    """The sentences of each example in a batch, as text."""
    found = []
    for row, segments in zip(batch["source"], batch["source_segments"], strict=True):
        for segment in range(1, segments.max() + 1):
            found.append([data.vocabulary.decode(ids) for ids in row[segments == segment]])
    return sorted(found)


EXPECTED = [["A cat sat.", "Who sat?"], ["Mary went home.", "John slept?", "Yes.", "Who slept?"]]


def test_an_encoder_position_is_a_sentence_packed_or_not(load):
    data = load()
    batch = next(data.train_batches(0, 1))
    assert batch["source"].shape == (1, 6, 24)
    assert batch["source_segments"].tolist() in ([[1, 1, 1, 1, 2, 2]], [[1, 1, 2, 2, 2, 2]])
    assert sentences_of(data, batch) == EXPECTED
    (batch,) = data.eval_batches("test", 2)
    assert sentences_of(data, batch) == EXPECTED
    answered = data.encode([story for story, _ in STORIES])
    assert sentences_of(data, answered) == EXPECTED
    assert answered["source"].shape == (2, 6, 24)


def test_a_long_story_keeps_its_last_sentences(load, capsys):
    data = load(source_length=2, truncate=True, truncate_source="start")
    (batch,) = data.eval_batches("test", 2)
    assert "1 of 2 test examples are longer than source_length=2 sentences and are truncated" in capsys.readouterr().err
    assert sentences_of(data, batch) == [["A cat sat.", "Who sat?"], ["Yes.", "Who slept?"]]
    with pytest.raises(ValueError, match="longer than source_length=2 sentences, the longest has 4"):
        _ = load(source_length=2).counts
