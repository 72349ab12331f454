"""CNN/DailyMail: news stories and their highlights, K. M. Hermann et al. 2015, as A. See et al. 2017 ("Get To The
Point") use it: not anonymised, with their splits. The builder of the TFDS catalogue needs TensorFlow. No licence is
stated.

    cnn_stories.tgz         cnn/stories/<sha1 of the URL>.story, or this folder unpacked
    dailymail_stories.tgz   dailymail/stories/<sha1 of the URL>.story, likewise
    all_train.txt all_val.txt all_test.txt     the URLs of each split
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from research.data.builders import text_files
from research.data.builders.archives import damage_named, tar_members
from research.data.text.builders.texts import TEXT, TextBuilder

URLS = {"train": "all_train.txt", "validation": "all_val.txt", "test": "all_test.txt"}
PUBLISHERS = ("cnn", "dailymail")
SENTENCE_ENDS = (".", "!", "?", "'", "`", '"', "\u2019", "\u201d", ")")


class CnnDailymail(TextBuilder, skip_registration=True):
    """Splits of 287,113 / 13,368 / 11,490: stories without text or highlights are left out, as in the catalogue.

    `highlights` has one highlight per line. Text as in version 3 of the catalogue: cased, with a full stop added to
    lines that lack one.
    """

    archives = tuple(URLS.values())
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "cnn_stories.tgz and dailymail_stories.tgz of cs.nyu.edu/~kcho/DMQA, and all_train.txt, all_val.txt and "
        "all_test.txt of github.com/abisee/cnn-dailymail"
    )
    fields = dict.fromkeys(("article", "highlights", "publisher", "id"), TEXT)

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError if a story is missing."""
        return {split: _stories(folder, folder / urls) for split, urls in URLS.items()}


def _stories(folder: Path, urls: Path) -> Iterator[Mapping[str, str]]:
    wanted = {hashlib.sha1(url.strip().encode()).hexdigest() for url in text_files.lines(urls)}
    found = 0
    for publisher in PUBLISHERS:
        for member, content in _members(folder, publisher):
            story = PurePosixPath(member).stem
            if story not in wanted:
                continue
            found += 1
            article, highlights = parse(text_files.decode(content, member))
            if article and highlights:
                yield {"article": article, "highlights": highlights, "publisher": publisher, "id": story}
    if found < len(wanted):
        raise ValueError(f"{folder} lacks {len(wanted) - found:,} of the {len(wanted):,} stories of {urls.name}")


def _members(folder: Path, publisher: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every story of a publisher, from its archive or from the unpacked folder."""
    archive, unpacked = folder / f"{publisher}_stories.tgz", folder / publisher / "stories"
    if archive.is_file():
        for name, file in tar_members(archive, str(archive)):
            with damage_named(archive):
                content = file.read()
            yield f"{archive}/{name}", content
    elif unpacked.is_dir():
        yield from ((str(path), path.read_bytes()) for path in sorted(unpacked.glob("*.story")))
    else:
        raise ValueError(f"neither {archive} nor the folder {unpacked} exists")


def parse(story: str) -> tuple[str, str]:
    """The article on one line, and its highlights, one per line: the texts that follow `@highlight`."""
    article, highlights = [], []
    part = article
    for line in filter(None, map(str.strip, story.split("\n"))):
        if line.startswith("@highlight"):
            part = highlights
        else:
            part.append(line if line.endswith(SENTENCE_ENDS) or "@highlight" in line else line + ".")
    return " ".join(article), "\n".join(highlights)
