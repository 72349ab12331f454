"""Finds the files in class folders: `ROOT/class/file` or `ROOT/{train,validation,test}/class/file`.

The class of a file is the name of its folder. Skipped files are counted by reason; an ambiguous layout is an error.
"""

import collections
import os
import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

# Accepted names of splits, in any case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
# Suffixes of unsupported image formats; a class that has only these is an error.
UNREAD = {".heic", ".heif", ".jxl", ".eps", ".psd", ".svg", ".tga", ".ico", ".raw", ".dng", ".cr2", ".nef", ".arw"}
# The layouts of `folder:PATH`, for messages.
KINDS = (
    "class/image.jpg, class/clip.mp4, images/NAME.jpg with masks/NAME.png and classes.txt, images with COCO's .json or "
    "VOC's .xml, person/image.jpg with pairs.csv or labels.csv, sounds with transcripts.tsv, or texts in train.tsv, "
    ".csv, .jsonl, .json or train.en and train.de"
)
# Folder names that suggest splits, images or annotations rather than classes.
_SPLIT_LIKE = re.compile(r"(?i).*(train|test|valid|\bval|dev|eval)([-_ ]?(ing|ation|set|data|images|imgs|all|\d+))*")
_IMAGES = re.compile(r"(?i)(images?|imgs?|photos|pictures|jpegimages|frames|rgb|input)")  # words: allow
_ANNOTATIONS = re.compile(
    r"(?i)(labels?|masks?|annotations?|annots?|segmentations?|ground_?truth|gt|segmentationclass)"
)
HIDDEN, LINKED, LOOSE, EMPTY = "hidden", "links to a file that is read", "outside class folders", "empty class folders"
NO_FILES = "links to nothing, or no files"


class FoundFiles(NamedTuple):
    """Split -> its files relative to the root, sorted; and reason -> the files left out for it."""

    splits: dict[str, list[Path]]
    left_out: dict[str, list[Path]]

    def classes(self, split: str) -> set[str]:
        """The classes of a split."""
        return {file.parent.name for file in self.splits[split]}

    def summary(self) -> str:
        """The number of classes and files, for the user."""
        counts = collections.Counter(file.parent.name for files in self.splits.values() for file in files)
        if len(counts) > 20:
            return f"{len(counts)} classes of {min(counts.values()):,} to {max(counts.values()):,}"
        return f"{len(counts)} classes: {', '.join(f'{name} {count:,}' for name, count in sorted(counts.items()))}"


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a user's folder is hidden or made by the operating system."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def find(root: Path, suffixes: Container[str], what: str, expected: str, beside: Collection[str] = ()) -> FoundFiles:
    """Finds the files with these suffixes in class folders below `root`.

    Args:
        root: the folder.
        suffixes: the suffixes of the files that are read, in lower case.
        what: the kind of the files, for messages, such as "images".
        expected: the layout without splits, such as "class/image.jpg".
        beside: names of other files in `root` that are used, which are not counted as left out.

    Raises:
        ValueError: for a split without files, two folders of one split, folders of splits beside those of classes,
            files in folders within class folders, and names that are not UTF-8.
    """
    if not root.is_dir():
        raise ValueError(f"data set 'folder:{root}': {root} is not a folder; give the path of an existing one")
    left_out = collections.defaultdict(list)
    files, folders = _scan(root, suffixes, left_out)
    left_out = {
        reason: paths for reason, each in left_out.items() if (paths := [p for p in each if str(p) not in beside])
    }
    if not files:
        seen = listed(
            {reason: sorted(paths) for reason, paths in left_out.items()} | ({"folders": folders} if folders else {})
        )
        raise ValueError(f"{root} holds no usable files, only {seen or 'nothing'}; it can hold {KINDS}")
    by_folder = _split_folders(root, files, folders, what, expected)
    splits, loose = {}, []
    for split_folder, split in by_folder.items():
        depth = len(split_folder.parts)
        here = [file for file in files if file.parts[:depth] == split_folder.parts]
        loose += [file for file in here if len(file.parts) == depth + 1]
        _check_depth(root, [file for file in here if len(file.parts) > depth + 2], depth, what)
        splits[split] = [file for file in here if len(file.parts) == depth + 2]
        empty = {each for each in folders if len(each.parts) == depth + 1 and each.parts[:depth] == split_folder.parts}
        empty -= {file.parent for file in splits[split]}
        _check_unread(root, empty, left_out, what)
        left_out.setdefault(EMPTY, []).extend(sorted(empty))
    if Path() not in by_folder:
        loose += [file for file in files if len(file.parts) == 1]
    left_out.setdefault(LOOSE, []).extend(loose)
    found = FoundFiles(splits, {reason: sorted(paths) for reason, paths in left_out.items() if paths})
    for split, each in splits.items():
        if not each:
            seen = f"; {described(found.left_out)}" if found.left_out else ""
            raise ValueError(f"{root} holds no {split} {what}; expected {expected} or train/{expected}{seen}")
    return found


def check_classes(root: Path, found: FoundFiles, what: str) -> None:
    """Raises ValueError for a single class, a class that is missing in train, or names that are not of classes."""
    classes = found.classes("train")
    _check_parts(root, classes)
    for split in found.splits:
        if unknown := sorted(found.classes(split) - classes):
            raise ValueError(
                f"{root}: the class {unknown[0]!r} has {what} in {split} but none in train ({len(unknown)} such "
                f"classes); the classes of train are {', '.join(sorted(classes)[:20])}"
            )
    if len(classes) < 2:
        left = f" ({described(found.left_out)})" if found.left_out else ""
        raise ValueError(
            f"{root} holds one class, {min(classes)!r}; at least two are needed, each in its own folder{left}"
        )


def _check_parts(root: Path, classes: Collection[str]) -> None:
    """Raises ValueError if the class folders have names of splits, or of images and annotations."""
    for part in (_IMAGES, _ANNOTATIONS):
        if not any(map(part.fullmatch, classes)):
            break
    else:
        raise ValueError(
            f"{root}: {', '.join(sorted(classes)[:5])} are names of images and annotations, not of classes; "
            f"a folder can hold {KINDS}"
        )
    if classes and all(map(_SPLIT_LIKE.fullmatch, classes)):
        raise ValueError(
            f"{root}: {', '.join(sorted(classes)[:5])} are names of splits, not of classes; expected train/class, "
            "validation/class and test/class"
        )


def described(left_out: Mapping[str, Sequence[Path | str]]) -> str:
    """`left out: 3 hidden (.x/a.jpg), 6 .heic (cats/b.heic)`: the count for each reason, and the first file."""
    return f"left out: {listed(left_out)}"


def listed(paths: Mapping[str, Sequence[Path | str]]) -> str:
    """`3 hidden (.x/a.jpg), 6 .heic (cats/b.heic)`."""
    return ", ".join(f"{len(each):,} {reason} ({each[0]})" for reason, each in paths.items())


def _scan(root: Path, suffixes: Container[str], left_out: dict[str, list[Path]]) -> tuple[list[Path], list[Path]]:
    """The files with these suffixes and the folders below `root`, as relative paths, both sorted."""
    files, folders, links = [], [], []
    for path, entry, hidden, linked in _walk(root):
        if entry.is_dir():
            folders += [] if hidden else [path]
        elif hidden:
            left_out[HIDDEN].append(path)
        elif not entry.is_file():
            left_out[NO_FILES].append(path)
        elif path.suffix.lower() not in suffixes:
            left_out[path.suffix.lower() or "without ending"].append(path)
        else:
            (links if linked else files).append(path)
    known = {os.path.realpath(root / file) for file in files} if links else set()
    for path in sorted(links):  # after the regular files, which take precedence
        target = os.path.realpath(root / path)
        if target in known:
            left_out[LINKED].append(path)
        else:
            known.add(target)
            files.append(path)
    return sorted(files), sorted(folders)


def _walk(root: Path) -> Iterator[tuple[Path, os.DirEntry, bool, bool]]:
    """Yields every entry below `root`: relative path, entry, whether it is hidden, whether it is reached by a link.

    Symbolic links are followed, but not in cycles.
    """
    waiting: list[tuple[Path, bool, bool, tuple[str, ...]]] = [(Path(), False, False, (os.path.realpath(root),))]
    while waiting:
        folder, hidden, linked, above = waiting.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{root / folder} cannot be read: {error.strerror}") from None
        for entry in entries:
            path = folder / entry.name
            _check_name(root, path)
            state = (hidden or is_hidden(path), linked or entry.is_symlink())
            yield path, entry, *state
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if real not in above:
                    waiting.append((path, *state, (*above, real)))


def _check_name(root: Path, path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{root / path.parent} holds {path.name!r}, a name that is not UTF-8; rename it") from None
    if path.name != " ".join(path.name.splitlines()):
        raise ValueError(f"{root / path.parent} holds {path.name!r}, a name of several lines; rename it")


def _split_folders(
    root: Path, files: Sequence[Path], folders: Sequence[Path], what: str, expected: str
) -> dict[Path, str]:
    """Folder -> split; without folders of splits, `root` itself is train."""
    tops = [folder for folder in folders if len(folder.parts) == 1]
    named = [folder for folder in tops if folder.name.lower() in SPLIT_NAMES]
    holding = {file.parts[0] for file in files if len(file.parts) > 1}
    if not any(folder.name in holding for folder in named):
        return {Path(): "train"}
    by_folder: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in by_folder:
            raise ValueError(
                f"{root} holds {by_folder[split].name} and {folder.name}, which are both {split}; keep one"
            )
        by_folder[split] = folder
    if others := sorted(holding - {folder.name for folder in named}):
        raise ValueError(
            f"{root} holds the split {named[0].name} beside {others[0]}, which holds {what} too; expected "
            f"train/{expected}, or {expected} without a class that has the name of a split"
        )
    if "train" not in by_folder:
        raise ValueError(f"{root} holds {named[0].name}, but no train {what}; expected train/{expected}")
    return {by_folder[split]: split for split in dict.fromkeys(SPLIT_NAMES.values()) if split in by_folder}


def _check_unread(root: Path, empty: set[Path], left_out: Mapping[str, Sequence[Path]], what: str) -> None:
    for ending in left_out.keys() & UNREAD:
        for file in left_out[ending]:
            if file.parent in empty:
                raise ValueError(
                    f"{root / file.parent} holds no {what} that can be read, only others such as {file.name}; convert "
                    f"{ending} files, to .jpg for example"
                )


def _check_depth(root: Path, deeper: Sequence[Path], depth: int, what: str) -> None:
    if deeper:
        first = deeper[0]
        top = root.joinpath(*first.parts[: depth + 1])
        raise ValueError(
            f"{top} is a class folder with folders in it that hold {what} ({root / first}, {len(deeper):,} such); move "
            f"them up into {top.name} or, where its folders are the classes, name folder:{top}"
        )
