"""Sets the address of the repository in notebooks, and their Colab badges, from `[project.urls] Repository`."""

import re
import tomllib
from pathlib import Path

NOTEBOOK = "reproduce.ipynb"
_BADGE = "[![Open in Colab]("
_IMAGE = "https://colab.research.google.com/assets/colab-badge.svg"
_SETTING = re.compile(r'REPOSITORY = \\"[^"\\]*\\"')


def repository(root: Path) -> str:
    """The address of the git repository in pyproject.toml; "" if there is none."""
    urls = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"].get("urls", {})
    return urls.get("Repository", "").removesuffix("/").removesuffix(".git")


def pages(root: Path) -> list[Path]:
    """The notebooks, and the README beside each NOTEBOOK, whose badge opens that one."""
    return [
        *sorted(root.glob("experiments/*/*.ipynb")),
        *(path.with_name("README.md") for path in sorted(root.glob(f"experiments/*/{NOTEBOOK}"))),
    ]


def updated(path: Path, root: Path) -> str:
    """The text of a README with its notebook's badge below the title, or of a notebook with the address.

    Colab opens only notebooks on github.com; for others there is no badge.
    """
    address, text = repository(root), path.read_text("utf-8")
    if path.suffix == ".ipynb":
        return _SETTING.sub(lambda match: f'REPOSITORY = \\"{address}\\"', text)
    title, rest = text.split("\n", 1)
    if rest.startswith(f"\n{_BADGE}"):
        rest = rest.split("\n", 2)[2]
    if not address.startswith("https://github.com/"):
        return f"{title}\n{rest}"
    notebook = path.with_name(NOTEBOOK).relative_to(root).as_posix()
    target = f"https://colab.research.google.com/github/{address.split('/', 3)[3]}/blob/main/{notebook}"
    return f"{title}\n\n{_BADGE}{_IMAGE})]({target})\n{rest}"
