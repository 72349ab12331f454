"""Fails on links of Markdown pages to files or headings that do not exist; `make lint` runs `python -m tests.links`.

Links to other sites are not followed.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub and mkdocs give to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken(page: Path) -> list[str]:
    """The links of a page whose file or heading does not exist."""
    wrong = []
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)]*)\)", page.read_text("utf-8")):
        linked = page.parent / target if target else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in headings(linked)):
            wrong.append(f"{target}#{anchor}" if anchor else target)
    return wrong


def pages(root: Path = ROOT) -> list[Path]:
    """All Markdown pages that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=root, capture_output=True, text=True, check=True
    )
    return [root / name for name in listed.stdout.splitlines() if (root / name).exists()]


def main() -> int:
    """Prints the broken links of all pages; 1 if there are any."""
    lines = [f"{page.relative_to(ROOT)}: no {link}" for page in pages() for link in broken(page)]
    print("\n".join(lines) or "no broken links")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
