"""`predict` for retrieval: the candidates nearest to each input, or its embedding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.question_answering.experiment import QuestionAnswering
from research import predicting
from research.data.builders import text_files
from research.tasks.retrieval import RetrievalSpec


def predict(config: QuestionAnswering, workdir: str, inputs: Sequence[str], out: str) -> None:
    """Prints the predictions for each input after the input and a tab, and writes them to the file `out`.

    With `config.task.candidates`, one line for each of the `config.task.num_return` nearest lines of that file: cosine
    similarity and text. Otherwise, the embedding. Raises ValueError for candidates that cannot be read.
    """
    spec = config.task
    assert isinstance(spec, RetrievalSpec)  # else there are no embeddings
    task, data = config.build(predicting.known("predict", workdir))
    data.prepare_vocabulary()
    candidates = read_candidates(spec.candidates) if spec.candidates else []
    encoded = data.encode(candidates, "target") if candidates else {}
    named = [each._replace(error=each.error or data.problem(each.content)) for each in predicting.texts(inputs)]
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for texts, _ in asking.batches(named, str, size=len(named)):
            embeddings = asking.outputs(data.encode(texts))["embedding"]
            known = asking.outputs(encoded)["embedding"] if candidates else None
            for text, embedding in zip(texts, embeddings, strict=True):
                if known is None:
                    found, record = [" ".join(f"{value:.6g}" for value in embedding)], {"embedding": embedding.tolist()}
                else:
                    found, record = nearest(embedding, known, candidates, spec.num_return)
                asking.answer(
                    "\n".join(f"{predicting.shown(text)}\t{line}" for line in found), {"input": text, **record}
                )


def nearest(
    embedding: np.ndarray, known: np.ndarray, candidates: Sequence[str], count: int
) -> tuple[list[str], Mapping[str, Any]]:
    """A line for each of the `count` candidates with the highest cosine similarity, and a record, the nearest first.

    Args:
        embedding: float [width], of length 1.
        known: float [candidates, width], embeddings of the candidates, of length 1.
        candidates: Their texts.
        count: The most candidates returned. Ties are in the order of the candidates.
    """
    cosines = known.astype(np.float64) @ embedding.astype(np.float64)
    order = np.argsort(-cosines, kind="stable")[:count]
    answers = [{"text": candidates[index], "similarity": float(cosines[index])} for index in order]
    lines = [f"{each['similarity']:.3f} {predicting.shown(each['text'])}" for each in answers]
    best = {"answer": answers[0]["text"], "similarity": answers[0]["similarity"]}
    return lines, best | ({"answers": answers} if answers[1:] else {})


def read_candidates(path: str) -> list[str]:
    """The distinct lines of a text file. Raises ValueError for a file that cannot be read or holds none."""
    name = f"config.task.candidates={path!r}"
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}); give a file with one text per line") from None
    lines = dict.fromkeys(line for line in text_files.any_lines(content, path) if line.strip())
    if not lines:
        raise ValueError(f"{name} holds no text; give a file with one text per line")
    return list(lines)
