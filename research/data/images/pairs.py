"""Pairs of images for verification: read from a file, or drawn from labelled images.

pairs.csv   path1,path2,same[,fold]: same is 1 for one person and 0 for two; the first line may be a header
pairs.txt   View 2 of "Labeled Faces in the Wild" (Huang et al., 2007): folds of lines `name n1 n2` and
            `name1 n1 name2 n2`, where image n of a person is name/name_000n.jpg
"""

import collections
import csv
import itertools
import random
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

FOLDS = 10
DRAWN = 1000  # most pairs of the same person, and most of different people
DRAW_SEED = 0
_NUMBER = re.compile("[0-9]{1,9}")


class ImagePair(NamedTuple):
    """The paths of two images, 1 if both show one person (else 0), and the fold of the protocol, from 0."""

    first: str
    second: str
    same: int
    fold: int


def read_csv(text: str, name: str) -> list[ImagePair]:
    """Parses a pairs.csv. Raises ValueError, with `name` and the line, for an invalid line.

    Without a column `fold`, the k-th pair of the same person and the k-th of different people are in fold k % FOLDS.
    """
    rows = [(line, list(map(str.strip, cells))) for line, cells in csv_rows(text, name) if any(map(str.strip, cells))]
    if rows and list(map(str.lower, rows[0][1][:3])) == ["path1", "path2", "same"]:
        rows = rows[1:]
    pairs, counts = [], [itertools.count(), itertools.count()]
    for line, cells in rows:
        if len(cells) not in (3, 4) or cells[2] not in ("0", "1") or not all(map(_NUMBER.fullmatch, cells[3:])):
            given = ",".join(cells)[:200]
            raise ValueError(f"{name}, line {line}: {given!r} is not path1,path2,same[,fold] with 0 or 1")
        same = int(cells[2])
        fold = int(cells[3]) if len(cells) == 4 else next(counts[same]) % FOLDS
        pairs.append(ImagePair(cells[0], cells[1], same, fold))
    return pairs


def csv_rows(text: str, name: str) -> list[tuple[int, list[str]]]:
    """The nonempty rows of a CSV text, with their line numbers. Raises ValueError for invalid ones."""
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: {error}") from None


def read_view2(text: str, name: str) -> list[ImagePair]:
    """Parses a pairs.txt.

    Raises:
        ValueError: An invalid line, or a number of pairs other than that of the first line; the message has `name`.
    """
    lines = enumerate(map(str.split, text.splitlines()), start=1)
    (_, head), *rows = [(line, cells) for line, cells in lines if cells] or [(1, [])]
    if len(head) not in (1, 2) or not all(map(_NUMBER.fullmatch, head)) or int(head[-1]) < 1:
        raise ValueError(
            f"{name} must begin with the number of folds, and of pairs of each kind (same person or different people) "
            "in a fold, such as `10 300`"
        )
    folds, count = int(head[0]) if len(head) == 2 else 1, int(head[-1])
    pairs = []
    for position, (line, cells) in enumerate(rows):
        same = len(cells) == 3
        people, numbers = ([cells[0]] * 2, cells[1:]) if same else (cells[::2], cells[1::2])
        if len(cells) not in (3, 4) or not all(map(_NUMBER.fullmatch, numbers)):
            given = " ".join(cells)[:200]
            raise ValueError(f"{name}, line {line}: {given!r} is not `name n1 n2` or `name1 n1 name2 n2`")
        first, second = (
            f"{person}/{person}_{int(number):04}.jpg" for person, number in zip(people, numbers, strict=True)
        )
        pairs.append(ImagePair(first, second, int(same), position // (2 * count)))
    if len(pairs) != 2 * folds * count:
        raise ValueError(
            f"{name} holds {len(pairs)} pairs; by its first line, {folds} folds of {count} pairs of the same person "
            f"and {count} of different people, it must hold {2 * folds * count}"
        )
    return pairs


def check(pairs: Sequence[ImagePair], present: Collection[str], name: str) -> None:
    """Checks that all images are `present`, and that a threshold for each fold can be chosen on the other folds.

    Raises:
        ValueError: An entry is invalid; the message has the file `name` and the entry.
    """
    if not pairs:
        raise ValueError(f"{name} holds no pairs")
    for number, pair in enumerate(pairs, start=1):
        for path in pair[:2]:
            if path not in present:
                raise ValueError(
                    f"{name}, pair {number}: there is no image {path[:200]!r}; fix the entry or add the file"
                )
        if pair.first == pair.second:
            raise ValueError(f"{name}, pair {number} is of {pair.first!r} and itself; give two different images")
    for fold in sorted({pair.fold for pair in pairs}):
        if {pair.same for pair in pairs if pair.fold != fold} != {0, 1}:
            raise ValueError(
                f"{name}: folds other than {fold} must have pairs of the same person and of different people, on which "
                "its threshold is chosen"
            )


def draw(images: Sequence[tuple[str, str]], gallery: Sequence[tuple[str, str]] = ()) -> list[ImagePair]:
    """Draws pairs of (path, person) images with a fixed seed: at most DRAWN each of the same and of different people.

    With a `gallery`, the second image of each pair is from it. Raises ValueError if there are fewer than two pairs of
    either kind.
    """
    rng, images = random.Random(DRAW_SEED), sorted(images)
    others = sorted(gallery) or images
    of_person = collections.defaultdict(list)
    for path, person in others:
        of_person[person].append(path)
    wanted = lambda first, second: first != second if gallery else first < second
    same = [(path, other) for path, person in images for other in of_person[person] if wanted(path, other)]
    same = rng.sample(same, min(DRAWN, len(same)))
    different = {}  # not a set, which has no order
    for _ in range(20 * DRAWN):  # enough to find nearly all pairs of a small set
        (first, person), (second, other) = rng.choice(images), rng.choice(others)
        if person != other and len(different) < DRAWN:
            different[(first, second) if gallery else tuple(sorted((first, second)))] = None
    if min(len(same), len(different)) < 2:  # a threshold is chosen on some folds and applied to another
        raise ValueError(
            f"{len(images)} images give {len(same)} pairs of the same person and {len(different)} of different people; "
            "at least 2 of each are needed: hold out more images of each person, or list pairs in pairs.csv"
        )
    return [
        ImagePair(first, second, kind, position % FOLDS)
        for kind, found in ((1, same), (0, different))
        for position, (first, second) in enumerate(found)
    ]
