# ruff: noqa: RUF001  Chinese punctuation is meant.
import hashlib
import io
import re
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.text import vocabulary
from research.data.text.vocabulary import Settings, Vocabulary, normalise

ENGLISH = [f"The {a} number {n} sees a {b}." for n in range(30) for a, b in (("cat", "dog"), ("dog", "bird"))]
CHINESE = ["我不知道他在哪里。", "他知道我在哪里，是吗？", "我不知道 DJ 在哪里。"] * 5


def trained(tmp_path, texts, **settings_):
    path = tmp_path / "vocabulary.model"
    path.write_bytes(vocabulary.train(texts, Settings(**settings_)))
    return Vocabulary(lambda: path, Settings(**settings_).size)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("words"), ENGLISH + CHINESE, size=500)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_with_its_white_space_made_plain(words, text):
    assert words.decode(words.encode(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a  b\t c ", "a b c"),
        ("a \r\n\n b", "a\nb"),
        ("a\u3000b\x1fc", "a b c"),
        ("，？ﬁ", "，？ﬁ"),
        ("\n", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("kind", vocabulary.TYPES)
def test_the_same_texts_give_the_same_bytes_and_special_ids(kind):
    first, second = (vocabulary.train(iter(ENGLISH), Settings(size=400, type=kind)) for _ in range(2))
    assert first == second
    assert vocabulary.train([*ENGLISH[:-1], "Quite another zebra."], Settings(size=400, type=kind)) != first
    processor = sentencepiece.SentencePieceProcessor(model_proto=first)
    assert [processor.id_to_piece(index) for index in range(5)] == ["<pad>", "</s>", "<unk>", "<s>", "\n"]


def test_case_can_be_folded(tmp_path):
    words = trained(tmp_path, [*ENGLISH, "\n"], size=400, fold_case=True)
    assert words.encode("QUITE\nａnother Zebra") == words.encode("quite\nanother zebra")
    assert words.decode(words.encode("QUITE\nａnother Zebra")) == "quite\nanother zebra"
    plain = trained(tmp_path, ENGLISH, size=400)
    assert plain.encode("Zebra") != plain.encode("zebra")


def test_a_setting_that_came_later_leaves_the_names_of_prepared_data_alone():
    assert "fold_case" not in Settings().described()
    assert Settings(fold_case=True).described() == Settings().described() | {"fold_case": True}


def test_the_digest_is_that_of_the_file(tmp_path):
    words = trained(tmp_path, ENGLISH, size=400)
    assert words.digest == hashlib.sha256((tmp_path / "vocabulary.model").read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_chinese_is_split_into_characters(tmp_path, kind):
    several = re.compile("[\u4e00-\u9fff]{2}")
    for split_cjk in (True, False):
        words = trained(tmp_path, CHINESE, size=400, type=kind, split_cjk=split_cjk)
        tokens = [words.decode([index]) for index in range(words.pieces)]
        assert any(map(several.search, tokens)) != split_cjk
        assert words.decode(words.encode("我不知道，他在 DJ 哪里？")) == "我不知道，他在 DJ 哪里？"


def test_an_unknown_character_without_byte_fallback_is_one_mark_without_spaces(tmp_path):
    words = trained(tmp_path, CHINESE, size=400, byte_fallback=False)
    ids = words.encode("我☃他")
    assert ids.count(words.unk) == 1
    assert words.decode(ids) == "我\u2047他"


def test_decoding_stops_at_eos_and_leaves_out_what_is_no_text(words):
    ids = words.encode("The cat")
    assert words.decode([words.bos, *ids, words.pad, words.size - 1, words.eos, *ids]) == "The cat"
    assert words.size == 500 > words.pieces
    assert words.encode_many(["The cat", " The  cat "]) == [ids, ids]


def test_text_that_looks_like_a_special_token_is_text(words):
    assert not {0, 1, 2, 3} & set(words.encode("<pad> </s> <unk> <s>"))


def test_special_tokens_are_one_id_and_others_are_unknown(tmp_path):
    words = trained(tmp_path, ENGLISH, size=400, special_tokens=("<question>",))
    assert words.encode("<question>cat<question>").count(words.id_of("<question>")) == 2
    with pytest.raises(ValueError, match=r"unknown special token '<answer>': it is not in the vocabulary .*\.model"):
        words.id_of("<answer>")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 270}, r"vocab_size=270 is too small: the characters of the text alone need 2\d\d tokens"),
        ({"type": "words"}, "vocab_type='words' is unknown; choose from unigram, bpe, char"),
        ({"size": 4}, "vocab_size=4 must be at least 5"),
        ({"coverage": 2.0}, "vocab_coverage=2.0 must be between"),
    ],
)
def test_a_bad_setting_is_one_line(settings_, message):
    with pytest.raises(ValueError, match=message) as caught:
        vocabulary.train(ENGLISH, Settings(**{"size": 400, **settings_}))
    assert "\n" not in str(caught.value)


def test_no_text_is_one_line():
    with pytest.raises(ValueError, match="training a vocabulary on this text failed") as caught:
        vocabulary.train([], Settings())
    assert "\n" not in str(caught.value)


def write_model(path: Path, **ids):
    """A model with special ids such as T5's, which has no BOS."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2, **ids
    )
    path.write_bytes(model.getvalue())
    return str(path)


def test_a_given_vocabulary_without_bos_starts_with_pad(tmp_path):
    file = write_model(tmp_path / "t5.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    words = Vocabulary.of_file(file, size=128)
    assert (words.bos, words.size) == (0, 128)
    assert words.decode([*words.encode("The cat"), 1]) == "The cat"
    with pytest.raises(ValueError, match=r"vocab_size=10 is less than the \d+ tokens of '.*t5\.model'"):
        Vocabulary.of_file(file, size=10)
    with pytest.raises(ValueError, match="unknown special token '<x>'"):
        Vocabulary.of_file(file, size=128, special_tokens=("<x>",))


def test_a_given_vocabulary_that_cannot_be_used_is_one_line(tmp_path):
    other = write_model(tmp_path / "llama.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    (tmp_path / "text.model").write_text("no model")
    for file, message in (
        (other, r"has pad, eos and unk at \(-1, 2, 0\); they must be at \(0, 1, 2\)"),
        (str(tmp_path / "text.model"), r"text\.model' is not a sentencepiece model"),
        (str(tmp_path / "absent.model"), r"absent\.model' cannot be read: No such file"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Vocabulary.of_file(file, size=500)
        assert "\n" not in str(caught.value)


def test_size_and_special_ids_need_no_file():
    words = Vocabulary(lambda: pytest.fail("the file was asked for"), 500)
    assert (words.size, words.pad, words.eos, words.unk, words.bos) == (500, 0, 1, 2, 3)
