"""Vocabularies of the library tokenizers, of all three kinds, and the data that are prepared with them."""

import hashlib
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from research import files
from research.data.text import dataset as text
from research.data.text import tokenizer, vocabulary

TEXTS = [f"The {a} number {n} sees a {b}." for n in range(30) for a, b in (("cat", "dog"), ("dog", "bird"))]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def made(kind, texts=TEXTS):
    """A tokenizer that was trained on texts, with [CLS] before a text and [SEP] behind it."""
    if kind == "wordpiece":
        words, trainer = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer
        split, decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "bpe":
        words, trainer = models.BPE(), trainers.BpeTrainer
        split, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        words, trainer = models.Unigram(), trainers.UnigramTrainer
        split, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = tokenizers.Tokenizer(words)
    made.normalizer, made.pre_tokenizer, made.decoder = normalizers.Lowercase(), split, decoder
    options = {"unk_token": "[UNK]"} if kind == "unigram" else {}
    made.train_from_iterator(texts, trainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False, **options))
    ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return made


def write(folder, kind="wordpiece", **options):
    path = folder / "tokenizer.json"
    made(kind, **options).save(str(path))
    return path


@pytest.fixture(params=["wordpiece", "bpe", "unigram"])
def kind(request):
    return request.param


def test_ids_and_texts_are_those_of_the_library(kind, tmp_path):
    path = write(tmp_path, kind)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    words = tokenizer.open_vocabulary(str(path), 400)
    assert words.pieces == theirs.get_vocab_size() <= 300 and words.size == 400
    assert (words.pad, words.bos, words.eos) == tuple(map(theirs.token_to_id, ("[PAD]", "[CLS]", "[SEP]")))
    said = ["The cat number 3 sees a bird.", "a  dog", ""]
    for one, ids in zip(said, words.encode_many(said), strict=True):
        assert [*ids, words.eos] == theirs.encode(one).ids
        assert ids == words.encode(one) and ids[0] == words.bos
    assert words.decode([*words.encode("the cat sees"), words.eos, *words.encode("a dog")]) == "the cat sees"
    assert words.given and words.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_unknown_characters_and_tokens(kind, tmp_path):
    words = tokenizer.open_vocabulary(str(write(tmp_path, kind)), 400)
    if kind == "bpe":  # of bytes, with one token for each that was seen
        assert words.unk == words.eos
    else:
        assert words.unk == words.id_of("[UNK]") and words.unk in words.encode("cat ☃")
    with pytest.raises(ValueError, match="unknown special token '<answer>'"):
        tokenizer.open_vocabulary(str(tmp_path), 400, ("<answer>",))


def test_settings_of_who_saved_a_file_are_not_taken(tmp_path):
    theirs = made("wordpiece")
    expected = theirs.encode(TEXTS[0]).ids
    theirs.enable_truncation(4)
    theirs.enable_padding(length=50)
    theirs.save(str(tmp_path / "tokenizer.json"))
    words = tokenizer.open_vocabulary(str(tmp_path), 400)
    assert [*words.encode(TEXTS[0]), words.eos] == expected
    assert words.encode_many(TEXTS[:2])[0] == expected[:-1]


def test_a_folder_and_a_package_name_their_file(tmp_path, monkeypatch):
    path = write(tmp_path)
    assert tokenizer.located(str(tmp_path)) == tokenizer.located(str(path)) == path
    monkeypatch.setattr(files, "located", lambda name: tmp_path if name == "package:words" else Path(name))
    assert tokenizer.open_vocabulary("package:words", 400).digest == tokenizer.open_vocabulary(str(path), 400).digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds neither tokenizer\.json nor spiece\.model"):
        tokenizer.open_vocabulary(str(tmp_path / "empty"), 400)


def test_sentencepiece_is_still_read(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(vocabulary.train(TEXTS, vocabulary.Settings(size=400)))
    assert tokenizer.open_vocabulary(str(tmp_path), 400).encode("The cat") == vocabulary.Vocabulary.of_file(
        str(path), 400
    ).encode("The cat")


def refusal(path, size=400):
    with pytest.raises(ValueError) as caught:
        tokenizer.open_vocabulary(str(path), size)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_a_vocabulary_larger_than_the_embeddings_is_refused(tmp_path):
    path = write(tmp_path)
    pieces = made("wordpiece").get_vocab_size()
    assert f"config.data.vocab_size=50 is less than the {pieces} tokens of" in refusal(path, 50)
    assert tokenizer.open_vocabulary(str(path), pieces).pieces == pieces


def test_a_tokenizer_without_what_ours_need_is_refused(tmp_path):
    theirs = made("wordpiece")
    theirs.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert "adds no token after a text" in refusal(tmp_path / "tokenizer.json")
    theirs.post_processor = None
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert "adds no token after a text" in refusal(tmp_path / "tokenizer.json")
    content = json.loads(write(tmp_path).read_text())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert "has '[PAD]' at id 0, which is padding here" in refusal(tmp_path / "tokenizer.json")


def test_damaged_and_hostile_files_are_refused_in_one_line(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    content = json.loads(whole)
    hostile = [
        whole[:100], b"{}", b'{"model": 1}', b'{"a": "\xff"}', b"{" * 10_000, whole.replace(b'"WordPiece"', b'"Evil"'),
        json.dumps(content | {"model": content["model"] | {"vocab": {"a": -1}}}).encode(),
        json.dumps(content | {"model": content["model"] | {"vocab": {"a": 2**70}}}).encode(),
    ]  # fmt: skip
    for damaged in hostile:
        path.write_bytes(damaged)
        assert "is not a tokenizer.json" in refusal(path)


# ---- Data that are prepared with it.


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [f"{line}\t{'cat' if 'cat' in line else 'none'}" for line in TEXTS]
    for split, part in (("train", lines[:40]), ("validation", lines[40:50]), ("test", lines[50:])):
        (folder / f"{split}.tsv").write_text("\n".join(part) + "\n")
    path = write(tmp_path)
    return text.TextSpec(
        name=f"folder:{folder}", dir=str(tmp_path), vocabulary=str(path), vocab_size=300, source_length=40,
        target_length=4,
    )  # fmt: skip


CLASSES = ("none", "cat")


def test_the_name_of_what_is_prepared_has_the_digest(spec, tmp_path):
    data = text.load(spec)
    data.prepare()
    folder = data.prepared.folder
    assert folder.name.startswith(f"tokenizer-{data.vocabulary.digest}-")
    assert (folder / "vocabulary.model").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert data.fingerprint.endswith(f"vocabulary {data.vocabulary.digest}")
    classes = text.load(spec, classes=CLASSES)
    assert classes.prepared._folder_path != folder


def test_rows_hold_texts_and_their_classes(spec):
    data = text.load(spec, classes=CLASSES)
    data.prepare()
    assert data.class_names == CLASSES
    seen = []
    for batch in itertools.islice(data.train_batches(0, 2, 0), -(-len(data.rows) // 2)):
        for row in range(2):
            for place in np.flatnonzero(batch["target_segments"][row]):
                assert batch["target_segments"][row, place] == place + 1
                ids = batch["source"][row][batch["source_segments"][row] == place + 1]
                said = data.vocabulary.decode(ids[:-1])
                assert ids[-1] == data.vocabulary.eos
                assert CLASSES[batch["target"][row, place]] == ("cat" if "cat" in said else "none")
                seen.append(said)
    assert len(data.rows) < 40 <= len(seen) and len(set(seen)) == 40
    evaluated = list(data.eval_batches("test", 4))
    assert sum(int((batch["weight"] > 0).sum()) for batch in evaluated) == 10
    assert all((batch["target_segments"].sum(1) == (batch["weight"] > 0)).all() for batch in evaluated)
    assert data.reference("test", 0)["target"] in CLASSES


def test_a_target_that_is_no_class_is_refused_in_one_line(spec):
    with pytest.raises(ValueError, match=r"the train target 'cat' is not in config\.task\.classes=\('none', 'dog'\)"):
        text.load(spec, classes=("none", "dog")).prepare()


def test_transforms_go_to_worker_processes(spec):
    data = text.load(spec, classes=CLASSES)
    assert pickle.loads(pickle.dumps(data.train_transform)) == data.train_transform
