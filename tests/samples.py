"""Examples that are made here, and what a data set's transforms make of them: nothing must be prepared."""

import dataclasses
import io

import numpy as np
from PIL import Image

from research.data.clips.dataset import ClipDataset
from research.data.text import tokens, windows


def prepared(data):
    """A data set, prepared."""
    data.prepare()
    return data


def tokenised(data):
    """A data set whose tokens are made, however long its examples are."""
    data.prepared.prepare()
    return data


def encoded(rng, height, channels):
    """An image of noise, 48 px wide."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, 48, channels), np.uint8).squeeze()).save(buffer, "png")
    return buffer.getvalue()


def images(data):
    """The training and evaluation arrays of eight images or clips that are drawn, so that none must be prepared."""
    for seed in range(8):
        rng, shape = np.random.default_rng(seed), (40 + seed, data.image_shape[-1])
        if isinstance(data, ClipDataset):
            example = {"frames": [encoded(rng, *shape) for _ in range(20)], "label": 3, "clip": b"a"}
        else:
            example = {data.train_transform.image_key: encoded(rng, *shape), data.train_transform.label_key: 3}
        yield data.train_transform(example, rng)["image"].tobytes()
        yield data.eval_transform(example)["image"].tobytes()


def marked(data):
    """As `images`, each with a mask and with two boxes of which one reaches outside; all the arrays."""
    examples = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        encoded = []
        for shape, high in (((40 + seed, 48, 3), 256), ((40 + seed, 48), 3)):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, high, shape, np.uint8)).save(buffer, "png")
            encoded.append(buffer.getvalue())
        boxes = np.array([[5, 5, 20, 30], [30, 20, 60, 40]], np.float32)
        numbers = {"labels": np.array([0, 2]), "crowd": np.array([0, 0])}
        examples.append({"image": encoded[0], "mask": encoded[1], "name": b"a.png", "boxes": boxes, **numbers})
    train = data.train_transform
    if hasattr(train, "others"):
        train = dataclasses.replace(train, others=examples)
    for seed, example in enumerate(examples, start=16):  # whose first draws tell chances of 0.375 and 0.5 apart
        yield from (array.tobytes() for array in train(example, np.random.default_rng(seed)).values())
        try:
            yield from (array.tobytes() for array in data.eval_transform(example).values())
        except ValueError as error:
            yield str(error)


class Words(str):
    """A field of any type: a text that lasts, whatever item of it a template asks for."""

    def __getitem__(self, key):
        return self


class Written:
    """Stands for tokens.Tokens: in each split the same text `copies` times, written here so that nothing must be
    prepared; each of its bytes is a token, after those of `prefix`."""

    def __init__(self, prepared, copies, prefix):
        fields = {name: Words(name) for name in prepared.raw.builder.info.features}
        self._texts = [[prefix + text for text in prepared.template.texts(fields)]] * copies
        self.name = prepared.name

    @property
    def vocabulary(self):
        return self

    def ids_ending_in(self, characters):
        return tuple(characters.encode())

    def lengths(self, split, splitter=None):
        return np.array([[len(part) for part in pair] for pair in self._pairs(splitter)])

    def examples(self, split, limits, keep_end, splitter=None):
        return [
            (tokens.cut(source, limits[0], keep_end), tokens.cut(target, limits[1]))
            for source, target in self._pairs(splitter)
        ]

    def _pairs(self, splitter):
        ids = lambda text: np.array([*text.encode(), 1], np.int32)
        split = splitter or (lambda ids: ids)
        return [(split(ids(source)), ids(target)) for source, target in self._texts]


def texts(data):
    """The arrays of a row of three short texts, and of one that is too long for any row, or why there are none."""
    long = " ".join(map(str, range(1000)))
    for copies, prefix in ((3, ""), (1, long)):
        rows = dataclasses.replace(data, prepared=Written(data.prepared, copies, prefix))
        try:
            yield from (array.tobytes() for array in rows.train_transform(rows.source("train")[0]).values())
        except ValueError as error:
            yield str(error)


def pairs(data):
    """As `texts`, and the shapes of evaluation batches."""
    yield from texts(data)
    rows = dataclasses.replace(data, prepared=Written(data.prepared, 3, ""), workers=0)
    yield from (batch["source"].shape for batch in rows.eval_batches("test", 2))


class WrittenSpans(Written):
    """As Written, for spans.SpanTokens; the prefix is one of the question, and answers begin their contexts."""

    pair_tokens = (1,), (2,), (3,)

    def examples(self, split, limits, keep_end):
        found = []
        for source, target in self._texts:
            question, context = (part.encode() for part in source.split("\t"))
            ids = np.array([*question, *context], np.int32)
            found.append((ids, np.array(windows.target(len(question), (0, len(target) - 1)))))
        return found


def spans(data):
    """As `texts`, for questions."""
    long = " ".join(map(str, range(1000)))
    for copies, prefix in ((3, ""), (1, long)):
        rows = dataclasses.replace(data, prepared=WrittenSpans(data.prepared, copies, prefix))
        try:
            yield from (array.tobytes() for array in rows.train_transform(rows.source("train")[0]).values())
        except ValueError as error:
            yield str(error)


class Spoken(Written):
    """As Written: recordings of noise of the lengths of `seconds` in each split, of two alternating speakers."""

    def __init__(self, seconds):
        rng = np.random.default_rng(0)
        self.name, self._seconds = "noise", seconds
        self.raw = self
        audio = [rng.integers(-9999, 9999, round(8000 * each)).astype(np.int16) for each in seconds]
        self._records = [{"audio": samples, "rate": 8000} for samples in audio]

    def source(self, split):
        return self._records

    def seconds(self, split):
        return np.array(self._seconds)

    def speakers(self, split):
        return ["a", "b"] * (len(self._seconds) // 2)

    def lengths(self, split):
        return np.full((len(self._seconds), 2), 3)

    def examples(self, split, limits, keep_end):
        ids = np.array([5, 6, 1], np.int32)
        return [(ids, ids)] * len(self._seconds)


def sounds(data):
    """The arrays of short sounds and of what evaluation makes of them, and the error for one that is too long."""
    spec = dataclasses.replace(data.spec, cache=False)
    rows = dataclasses.replace(data, prepared=Spoken([0.3, 0.4, 0.5, 0.6]), spec=spec, workers=0)
    rng = np.random.default_rng(0)
    source = rows.source("train")
    for index in [0, 1, 2] * 8:
        yield from (array.tobytes() for array in rows.train_transform(source[index], rng).values())
    yield str(len(source))
    batches = rows.eval_batches("test", 2)
    yield from (array.tobytes() for batch in batches for array in batch.values())
    yield from (array.shape for array in next(rows.eval_batches("test", 2)).values())
    for seconds in (1.3, 100.0):
        long = dataclasses.replace(data, prepared=Spoken([0.3, 0.4, 0.5, seconds]))
        try:
            yield str(len(long._kept))
        except ValueError as error:
            yield str(error)
