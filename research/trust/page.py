"""A trust report as a page: `report.md` and `report.html`, with figures beside them."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research import files
from research.trust import sections as content
from research.trust.sections import Section
from research.trust.showing import ImageOf, no_image

FOLDER = "trust"  # below the run directory


def write(found: Mapping[str, Any], folder: Path, title: str, image: ImageOf = no_image) -> Path:
    """Writes the pages and figures of a report (see `measure.measure`); returns the path of the Markdown page.

    `image` gives the images that are shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = content.of(found, folder, image)
    page = folder / "report.md"
    files.write_atomically(page, markdown(title, sections))
    files.write_atomically(folder / "report.html", as_html(title, sections, folder))
    return page


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        if section.table:
            header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in section.table)
            lines = [header, ["---"] * len(header), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        if section.figure:
            parts.append(f"![{section.title}]({section.figure})")
    return "\n\n".join(part for part in parts if part) + "\n"


def as_html(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The page as one HTML file, with its figures inside."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(section.text)}</p>"] if section.text else []
        if section.table:
            cells = lambda row, tag: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            header, *rows = section.table
            lines = [cells(header, "th"), *(cells(row, "td") for row in rows)]
            parts.append(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")
        if section.figure:
            content = base64.b64encode((folder / section.figure).read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,{content}">')
    style = (
        "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2em .7em;text-align:left}"
        "tr:nth-child(even){background:#f4f4f4}img{max-width:100%}"
    )
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return f"<!doctype html><html><head>{head}<style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
