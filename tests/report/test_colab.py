"""Notebooks and badges take the address of the repository from pyproject.toml."""

import json

import pytest

from research.report import colab

NOTEBOOK = json.dumps({"cells": [{"source": ['REPOSITORY = ""  # on Colab']}]})


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "experiments" / "sentiment"
    folder.mkdir(parents=True)
    (folder / "reproduce.ipynb").write_text(NOTEBOOK)
    (folder / "README.md").write_text("# Sentiment\n\nText.\n")

    def update(urls):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n{urls}')
        for page in colab.pages(tmp_path):
            page.write_text(colab.updated(page, tmp_path))
        return json.loads((folder / "reproduce.ipynb").read_text()), (folder / "README.md").read_text()

    return update


def test_the_address_stands_in_one_place(pages):
    first = pages('[project.urls]\nRepository = "https://github.com/someone/tessera.git"\n')
    notebook, readme = first
    assert notebook["cells"][0]["source"] == ['REPOSITORY = "https://github.com/someone/tessera"  # on Colab']
    badge = readme.split("\n")[2]
    assert badge.endswith(
        "(https://colab.research.google.com/github/someone/tessera/blob/main/experiments/sentiment/reproduce.ipynb)"
    )
    assert readme == f"# Sentiment\n\n{badge}\n\nText.\n"
    assert pages('[project.urls]\nRepository = "https://github.com/someone/tessera"\n') == first


@pytest.mark.parametrize("urls", ["", '[project.urls]\nRepository = "https://git.example.org/tessera"\n'])
def test_without_an_address_on_github_there_is_no_badge(pages, urls):
    pages('[project.urls]\nRepository = "https://github.com/someone/tessera"\n')
    notebook, readme = pages(urls)
    assert readme == "# Sentiment\n\nText.\n"
    assert ("example.org" in notebook["cells"][0]["source"][0]) is ("example" in urls)
