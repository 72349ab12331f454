"""Prepares a data set: reads its archives once, checks every image and line, writes ArrayRecord files.

It can be interrupted and run again at any time: TFDS writes into a folder `incomplete.*` and renames it at the end.
"""

import contextlib
import fcntl
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from research.data import integrity, sources
from research.data.builders import archives, class_folders
from research.measure import progress

NAMED = 5  # files listed in a summary


def prepare(name: str, manual_dir: str = "", data_dir: str = "", skip_undecodable: bool = False) -> str:
    """Prepares a data set unless it is prepared already.

    Args:
        name: See sources.
        manual_dir: The folder with the archives that are not downloaded.
        data_dir: Where prepared data are stored, see sources.
        skip_undecodable: Whether to leave out files that cannot be decoded.

    Returns:
        A summary for the user, in one line.

    Raises:
        ValueError: An unknown name, a missing or damaged archive, a file that cannot be decoded (unless
            `skip_undecodable`), or a catalogue builder that needs TensorFlow.
    """
    builder = sources.open_builder(name, data_dir)
    if not sources.is_prepared(builder):
        _check_archives(builder, name, manual_dir)
        with locked(Path(builder.data_dir).parent):
            if not sources.is_prepared(builder):  # another process may have prepared it meanwhile
                _write(builder, name, manual_dir, skip_undecodable)
                return f"{name}: prepared in {builder.data_dir} ({_summary(builder)}{_damaged(builder)})"
    return f"{name}: already prepared in {builder.data_dir}"


def ensure(data: sources.Prepared) -> None:
    """Prepares a `folder:` data set that is new or has changed; any other must be prepared already.

    Raises:
        ValueError: The data set is not prepared (the message has the command), or files in the folder are invalid.
    """
    if data.name.startswith(sources.FOLDER) and data.can_be_prepared and not sources.is_prepared(data.builder):
        # The summary lists the user's invalid files.
        print(prepare(data.name, data_dir=str(data.builder.data_dir_root)), file=sys.stderr)
        data.reopen()
    _ = data.counts  # raises
    if data.group:
        progress.say(f"{data.name}: {described_groups(data)}")


def described_groups(data: sources.Prepared) -> str:
    """The number of groups by split, such as `groups of 'speaker': 40 train, 5 validation, 5 test`."""
    return f"groups of {data.group!r}: {', '.join(f'{count:,} {split}' for split, count in data.groups.items())}"


def _summary(builder):
    """The counts of examples, and the files left out with the reasons."""
    parts = [f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items()]
    skipped = getattr(builder, "skipped", [])
    if skipped:
        parts.append(f"{len(skipped):,} undecodable left out: {_some(skipped)}")
    if hasattr(builder, "summary"):
        parts.append(builder.summary())
    parts += builder.copies.described() if hasattr(builder, "copies") else []
    if left_out := getattr(builder, "left_out", None):
        parts.append(class_folders.described(left_out))
    return ", ".join(parts)


def _check_archives(builder, name, manual_dir):
    if not manual_dir and sources.needs_archives(name, builder):
        raise ValueError(
            f"{name} must be downloaded first: give --manual_dir=DIR, a folder with "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    for archive in getattr(builder, "archives", ()):
        archives.check(Path(manual_dir) / archive)


def _damaged(builder):
    """The damaged files that are used nevertheless, as the end of a summary."""
    if not (warnings := getattr(builder, "warnings", [])):
        return ""
    return f", {len(warnings):,} used as far as they can be decoded: {_some(warnings)}"


def _some(lines):
    more = f" and {len(lines) - NAMED:,} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more


def _write(builder, name, manual_dir, skip_undecodable):
    import tensorflow_datasets as tfds

    builder.skip_undecodable = skip_undecodable
    for leftover in Path(builder.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(leftover)
    if sources.is_own(name) or name.startswith(sources.FOLDER) or not progress.on_terminal():
        tfds.disable_progress_bar()  # our builders show their own; a log needs none
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what `prepare` returns
            builder.download_and_prepare(download_config=config)
            integrity.write(Path(builder.data_dir))
    # No TensorFlow; no network or disk space; files that TFDS expects in a manual_dir that was not given.
    except (ImportError, OSError, AssertionError) as error:
        raise ValueError(f"{name} cannot be prepared: {error}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context manager: holds an exclusive lock on `folder`, which the system releases if the process is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); set another --data_dir") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
