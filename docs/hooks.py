"""Links that leave docs/ lead to the repository, since the site holds the pages of docs/ only."""

import os
import re
from pathlib import Path

REPOSITORY = os.environ.get("REPOSITORY_URL", "")  # such as https://github.com/NAME/tessera


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with `../PATH` as an address of the repository, or as plain text where none is known."""

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if not Path(path).exists():
            raise FileNotFoundError(f"a page links to {path}, which does not exist")
        return f"[{text}]({REPOSITORY}/blob/main/{path}{anchor})" if REPOSITORY else f"{text} (`{path}`)"

    return re.sub(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)", link, markdown)
