import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from research.data import prepare, sources
from research.data.text import dataset as text
from research.data.text import templates, tokens, vocabulary
from tests import samples
from tests.data.conftest import ROOT, run_python

NOUNS = ("cat", "dog", "bird", "horse", "fish")
SETTINGS = {
    "vocab_size": 90,
    "byte_fallback": False,
    "vocab_coverage": 1.0,
    "source_length": 48,
    "target_length": 32,
}


def pair(number):
    """English of 6 to 22 words and its German, a shorter one."""
    nouns = [NOUNS[(number * (k + 1) + k) % 5] for k in range(number % 9 + 1)]
    return f"{number} times: a {' a '.join(nouns)}.", f"{number} mal {' '.join(noun.upper() for noun in nouns)}"


def write_pairs(root, counts=(150, 20, 30)):
    root.mkdir()
    start = 0
    for split, count in zip(sources.SPLITS, counts, strict=True):
        lines = ["\t".join(pair(number)) for number in range(start, start + count)]
        (root / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        start += count
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the folder `pairs` of texts in it."""
    path = tmp_path_factory.mktemp("texts")
    write_pairs(path / "pairs")
    return path


@pytest.fixture
def load(place):
    """Loads these texts with other settings."""
    where = {"name": f"folder:{place}/pairs", "dir": str(place)}
    return lambda **other: samples.tokenised(text.load(text.TextSpec(**where | SETTINGS | other)))


def unpacked(batch, side):
    """The token lists of all examples in a batch, row by row."""
    found = []
    for ids, segments in zip(batch[side], batch[f"{side}_segments"], strict=True):
        found += [ids[segments == segment].tolist() for segment in range(1, segments.max() + 1)]
    return found


def test_counts_are_examples_and_rows_are_packed(load, capsys):
    data = load()
    assert data.counts == {"train": 150, "validation": 20, "test": 30}
    rows = len(data.source("train"))
    assert 20 < rows < 100
    padding = 1 - data.prepared.lengths("train").sum() / (rows * 80)
    assert f"150 training examples in {rows} rows, {padding:.1%} padding" in capsys.readouterr().err
    batch = next(data.train_batches(0, 4))
    kinds = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    sides = {f"source{end}": ("int32", (4, 48)) for end in ("", "_segments", "_positions")}
    sides |= {f"target{end}": ("int32", (4, 32)) for end in ("", "_segments", "_positions")}
    assert kinds == sides | {"index": ("int32", (4,)), "weight": ("float32", (4,))}


@pytest.mark.parametrize("pack", [True, False])
def test_an_epoch_holds_every_pair_once_and_together(load, pack):
    data = load(pack=pack)
    rows = len(data.source("train"))
    assert pack or rows == 150
    batch = next(data.train_batches(seed=3, batch_size=rows))
    decode = data.vocabulary.decode
    pairs = [(decode(a), decode(b)) for a, b in zip(*(unpacked(batch, side) for side in tokens.SIDES), strict=True)]
    assert sorted(pairs) == sorted(pair(number) for number in range(150))
    assert all(ids[-1] == 1 for side in tokens.SIDES for ids in unpacked(batch, side)), "EOS ends source and target"


def test_batches_are_a_function_of_seed_and_step(load):
    whole = [batch for batch, _ in zip(load().train_batches(5, 8), range(12), strict=False)]
    for start, rows, workers in ((7, None, 0), (9, slice(2, 6), 0), (10, [1, 5], 1)):
        batches = load(workers=workers).train_batches(5, 8, start=start, rows=rows)
        for expected in whole[start:]:
            for name, array in next(batches).items():
                np.testing.assert_array_equal(array, expected[name][rows or slice(None)])
        batches.close()
    other = next(load().train_batches(6, 8))
    assert not np.array_equal(other["index"], whole[0]["index"])


@pytest.mark.parametrize("eval_buckets", [1, 3])
def test_evaluation_covers_a_split_once_in_few_shapes(load, eval_buckets):
    data = load(eval_buckets=eval_buckets)
    batches = list(data.eval_batches("test", 8))
    shapes = [(batch["source"].shape, batch["target"].shape) for batch in batches]
    assert len(set(shapes)) == (1 if eval_buckets == 1 else 2)  # 16 x 16 and 32 x 24 tokens; 8 hold none of these
    seen = []
    for batch in batches:
        real = batch["index"] >= 0
        np.testing.assert_array_equal(batch["weight"], real)
        assert not batch["source_segments"][~real].any()
        assert (batch["source_segments"].max(axis=1) == real).all()
        for index, ids in zip(batch["index"][real], batch["target"][real], strict=True):
            assert data.vocabulary.decode(ids) == data.reference("test", index)["target"]
        seen += batch["index"][real].tolist()
    assert sorted(seen) == list(range(30))


def test_rows_of_evaluation_batches(load):
    for whole, part in zip(load().eval_batches("test", 8), load().eval_batches("test", 8, rows=[3, 6]), strict=True):
        for name, array in part.items():
            np.testing.assert_array_equal(array, whole[name][[3, 6]])


def test_references_are_raw_strings(load):
    found = {load().reference("validation", index)["source"] for index in range(20)}
    assert found == {pair(number)[0] for number in range(150, 170)}
    reference = load(source="en: {source}").reference("validation", 0)
    assert reference["source"].startswith("en: ")
    assert reference["references"] == (reference["target"],)


def test_prepared_twice_it_is_the_same(place, load, tmp_path):
    again = samples.prepared(text.load(text.TextSpec(name=f"folder:{place}/pairs", dir=str(tmp_path), **SETTINGS)))
    first = load()
    assert again.vocabulary.digest == first.vocabulary.digest
    assert again.fingerprint == first.fingerprint
    about = json.loads((first.prepared.folder / "about.json").read_text())
    assert about["vocabulary_digest"] == first.vocabulary.digest
    assert first.fingerprint.endswith(f"vocabulary {first.vocabulary.digest}")


@pytest.mark.parametrize(
    "other",
    [
        {"vocab_size": 66},
        {"vocab_type": "bpe"},
        {"byte_fallback": True, "vocab_size": 400},
        {"source": "translate: {source}"},
        {"source": "{target}", "target": "{source}"},
        {"special_tokens": ("cat",)},
    ],
)
def test_another_vocabulary_or_prompt_is_other_data(load, other):
    assert load(**other).fingerprint != load().fingerprint
    assert load(**other).prepared.folder != load().prepared.folder


def test_what_does_not_change_the_tokens_uses_the_same(load):
    same = {"pack": False, "eval_buckets": 1, "truncate": True, "source_length": 64, "workers": 1}
    assert load(**same).prepared.folder == load().prepared.folder


def test_the_vocabulary_is_learnt_from_the_training_split_alone(place, load, tmp_path):
    for split in sources.SPLITS:
        lines = (place / f"pairs/{split}.tsv").read_text()
        (tmp_path / f"{split}.tsv").write_text(lines if split == "train" else lines.replace("cat", "zebra"))
    settings = {"name": f"folder:{tmp_path}", "dir": str(tmp_path / "data")} | SETTINGS
    other = samples.tokenised(text.load(text.TextSpec(**settings)))
    assert other.vocabulary.digest == load().vocabulary.digest
    assert other.fingerprint != load().fingerprint


def test_a_given_vocabulary_is_used(load, tmp_path):
    path = tmp_path / "given.model"
    path.write_bytes(vocabulary.train([pair(number)[0] for number in range(50)], vocabulary.Settings(size=320)))
    data = load(vocabulary=str(path), vocab_size=320)
    assert data.vocabulary.digest == vocabulary.Vocabulary(lambda: path, 320).digest
    assert data.vocabulary.decode(data.prepared.examples("test", (48, 32), False)[0][0])
    assert data.fingerprint != load().fingerprint
    with pytest.raises(ValueError, match="unknown special token '<x>': it is not in the vocabulary"):
        load(vocabulary=str(path), vocab_size=320, special_tokens=("<x>",))


def test_what_is_not_prepared_is_known_as_far_as_planning_needs(tmp_path):
    data = text.load(text.TextSpec(name="multi30k", dir=str(tmp_path)))
    assert (data.vocabulary.size, data.vocabulary.bos, data.spec.source_length) == (8000, 3, 128)
    command = rf"python -m research.data prepare multi30k --manual_dir=DIR --data_dir={tmp_path}"
    for ask in (lambda: data.counts, lambda: data.fingerprint, lambda: data.vocabulary.digest):
        with pytest.raises(ValueError, match=command):
            ask()


def test_long_texts_are_refused_or_truncated_with_a_message(load, capsys):
    longest = load().prepared.lengths("train")[:, 0].max()
    with pytest.raises(
        ValueError,
        match=rf"\d+ of 150 train examples are longer than source_length=12 tokens, the long"
        rf"est has {longest}; raise config.data.source_length or set config.data.truncate=True",
    ) as caught:
        load(source_length=12).counts  # noqa: B018
    assert "\n" not in str(caught.value)
    for side in ("start", "end"):
        data = load(source_length=12, truncate=True, truncate_source=side, pack=False)
        assert data.counts["train"] == 150
        assert re.search(
            r"\d+ of 30 test examples are longer than source_length=12 tokens and are truncated",
            capsys.readouterr().err,
        )
        whole = load(pack=False)
        for index in range(150):
            (cut, target), (ids, same) = data.source("train")[index][0], whole.source("train")[index][0]
            kept = ids[-12:] if side == "start" else [*ids[:11], 1]
            np.testing.assert_array_equal(cut, ids if len(ids) <= 12 else kept)
            np.testing.assert_array_equal(target, same)
        assert all(batch["source"].shape[1] <= 12 for batch in data.eval_batches("test", 8))


def test_encoding_a_source(load):
    data = load(source="translate: {source}")
    example = {name: array[0] for name, array in data.encode(["a cat.\n", "two cats"]).items()}
    ids = data.vocabulary.encode("translate: a cat.")
    assert example["source"][: len(ids) + 2].tolist() == [*ids, 1, 0]
    assert example["source_segments"].sum() == len(ids) + 1
    assert not example["target"].any()
    assert not example["target_segments"].any()
    assert example["weight"] == 1
    batch = next(data.eval_batches("test", 1))
    assert example.keys() == batch.keys()
    two = load(source="{source} | {target}")
    np.testing.assert_array_equal(
        two.encode(["a cat\ta dog"])["source"][0, :3], two.vocabulary.encode("a cat | a dog")[:3]
    )
    for wrong, message in (
        (lambda: two.encode(["a cat"]), "'a cat' has 1 fields; give source, target, separated by tabs"),
        (lambda: two.encode(["a cat\t "]), "the target is empty"),
        (lambda: data.encode(["  "]), "the source is empty"),
        (lambda: data.encode(["a cat " * 99, "a cat"]), "1 of 2 given examples are longer than source_length=48"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert load(truncate=True).encode(["a cat " * 99])["source"][0, -1] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "{context}"},
            r"source='{context}' has the unknown field 'context'; choose from those of 'folder:.*': source, target",
        ),
        ({"target": "positive"}, "target='positive' has no field"),
        ({"target": "{target"}, "target='{target' must be a format string, such as 'question: {question}'"),
        ({"vocab_size": 3}, "vocab_size=3 must be at least 5"),
        ({"vocab_type": "morfessor"}, "vocab_type='morfessor' is unknown"),
        ({"source_length": 1}, "source_length=1 must be at least 2"),
        ({"eval_buckets": 0}, "eval_buckets=0 must be at least 1"),
        ({"sentence_length": -1}, "sentence_length=-1 must be at least 0"),
        ({"truncate_source": "middle"}, "truncate_source='middle' is unknown; choose from end, start"),
        ({"vocabulary": "/absent.model"}, "'/absent.model' cannot be read"),
        ({"name": "nonsense"}, "unknown data set 'nonsense'"),
        (
            {"name": "digits"},
            "source='{source}' has the unknown field 'source'; choose from those of 'digits': image, label",
        ),
        ({"validation_fraction": 0.9}, "validation_fraction=0.9 must be between"),
    ],
)
def test_a_bad_setting_is_one_line(load, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)


def test_killed_halfway_it_starts_again(place, load):
    folder = load().prepared.folder
    expected = load().fingerprint
    leftover = folder.parent / f"incomplete.{folder.name}"
    folder.rename(leftover)  # as a kill before the last step leaves it
    (leftover / "train.source.ids").write_bytes(b"half")
    data = load()
    assert data.counts["train"] == 150
    assert data.fingerprint == expected
    assert not leftover.exists()


def test_two_processes_make_the_tokens_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSERA_PROGRESS_S", "0")  # a line at every step, where no terminal is
    write_pairs(tmp_path / "pairs")
    command = [sys.executable, "-m", "research.data", "prepare", f"folder:{tmp_path}/pairs", f"--data_dir={tmp_path}"]
    # Into files: a process that waits until somebody reads its pipe would keep the lock that the other waits for.
    files = [[(tmp_path / f"{kind}{number}").open("w+") for kind in ("out", "err")] for number in range(2)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err, text=True) for out, err in files]
    assert [process.wait() for process in started] == [0, 0]
    outputs = [[Path(file.name).read_text() for file in pair] for pair in files]
    assert sum("for the vocabulary: 1 of" in err for _, err in outputs) == 1
    last = {out.splitlines()[-1] for out, _ in outputs}
    assert len(last) == 1
    assert re.match(r"folder:.*: \d+ tokens, vocabulary [0-9a-f]{16}, in .*/tokens/unigram-8000-", last.pop())
    data = text.load(text.TextSpec(name=f"folder:{tmp_path}/pairs", dir=str(tmp_path)))
    assert os.listdir(data.prepared.folder.parent).count(data.prepared.folder.name) == 1


def test_a_config_of_another_data_set_is_refused_before_anything_is_prepared(tmp_path):
    config = "configs/image_classification/cifar10_vit.py:smoke"
    result = run_python("-m", "research.data", "prepare", "digits", f"--data_dir={tmp_path}", f"--config={config}")
    assert result.stderr.endswith(f"--config={config} is for 'cifar10_jpeg', not 'digits'\n")
    assert os.listdir(tmp_path) == []


def test_no_tensorflow(tmp_path):
    write_pairs(tmp_path / "pairs")
    code = (
        "import sys; from research.data.text import dataset as text; "
        f"d = text.load(text.TextSpec(name='folder:{tmp_path}/pairs', dir='{tmp_path}')); "
        "d.prepare(); next(d.train_batches(0, 2)); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert run_python("-c", code).returncode == 0


# ---- the catalogue, with examples of ours in the place of what it would download


@pytest.mark.parametrize(
    ("name", "example", "expected"),
    [
        ("wmt14_translate/de-en", {"en": "A cat.", "de": "Eine Katze."}, ("A cat.", "Eine Katze.", ("Eine Katze.",))),
        ("glue/sst2", {"sentence": "so good", "label": 1, "idx": 0}, ("so good", "positive", ("positive",))),
        (
            "squad",
            {
                "id": "1",
                "title": "Cats",
                "context": "Cats purr.",
                "question": "What do cats do?",
                "answers": {"text": ["purr", "Purr", "purr"], "answer_start": [5, 5, 5]},
            },
            ("question: What do cats do? context: Cats purr.", "purr", ("purr", "Purr")),
        ),
    ],
)
def test_catalogue_names(tmp_path, monkeypatch, name, example, expected):
    builder = sources.open_builder(name, str(tmp_path))
    unlabelled = {"sentence": "?", "label": -1, "idx": 0}
    parts = {"train": 40, "validation": 7} | ({"test": 5} if name == "glue/sst2" else {})
    examples = lambda split, count: (
        (f"{split}{number}", unlabelled if split == "test" else example) for number in range(count)
    )
    generators = lambda self, dl_manager: {split: examples(split, count) for split, count in parts.items()}
    monkeypatch.setattr(type(builder), "_split_generators", generators)
    prepare.prepare(name, data_dir=str(tmp_path))
    data = samples.prepared(text.load(text.TextSpec(name=name, dir=str(tmp_path))))
    assert data.counts == {"train": 36, "validation": 4, "test": 7}, "a test split without targets is not used"
    reference = data.reference("test", 3)
    assert (reference["source"], reference["target"], reference["references"]) == expected
    assert data.vocabulary.decode(next(data.eval_batches("test", 2))["target"][0]) == expected[1]


def test_a_catalogue_name_that_wants_files_says_so(tmp_path, monkeypatch):
    """Another language of `wmt14_translate` has one part that nobody can download."""
    builder = sources.open_builder("wmt14_translate/cs-en", str(tmp_path))
    monkeypatch.setattr(type(builder), "_split_generators", lambda self, dl_manager: {"train": dl_manager.manual_dir})
    with pytest.raises(ValueError, match=r"wmt14_translate/cs-en cannot be prepared: .*anual"):
        prepare.prepare("wmt14_translate/cs-en", data_dir=str(tmp_path))


def test_templates():
    template = templates.choose("squad/v1.1:3.0.0", source="{context} {question}")
    assert template.source_fields == ("context", "question")
    assert template.references == "answers/text"
    assert templates.choose("glue/sst2").unlabelled == ("test",)
    assert templates.choose("folder:/x/multi30k").source == "{source}"
    assert not template.fits({"context": 0, "question": 0})
    assert template.fits({"context": 0, "question": 0, "answers": 0})
