"""Zero-shot transcription with a downloaded Whisper. See README.md, "Whisper, zero-shot".

python -m experiments.speech_recognition.whisper FOLDER SOUND ... [--language=en] [--task=translate] [--timestamps]
"""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import re
import sys
from collections.abc import Sequence

from research import command, predicting
from research.cli import experiments
from research.data.sound import files as sound_files
from research.interop import whisper
from research.measure import progress
from research.predicting import answers
from research.tasks.long_form import Fallbacks


def parsed(words: Sequence[str]) -> tuple[str, list[str], str, whisper.Settings]:
    """The folder, the inputs, the file of answers, and the settings. Raises ValueError for what does not fit."""
    parser = command.Parser(prog="python -m experiments.speech_recognition.whisper", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="of Hugging Face: config.json, .safetensors, tokenizer.json")
    parser.add_argument("inputs", metavar="SOUND", nargs="+", help="files, folders of them, patterns, or - for names")
    parser.add_argument("--language", default="", metavar="CODE", help="such as en; default: the most likely one")
    parser.add_argument("--task", default="transcribe", choices=("transcribe", "translate"), help="into English")
    parser.add_argument("--timestamps", action="store_true", help="a line for each segment, with its times")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="given as what was said before, such as names")
    parser.add_argument("--condition", action="store_true", help="give each window what was said before it")
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=list(Fallbacks().temperatures), metavar="T",
        help="at which a window is transcribed until it is good enough (default: 0 0.2 0.4 0.6 0.8 1)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the draws at temperatures above 0")
    parser.add_argument("--out", default="", metavar="FILE", help=".jsonl or .csv, for transcripts and segments")
    given = parser.parse_args(words)
    if not all(0 <= each <= 10 for each in given.temperatures):
        raise ValueError(f"--temperatures={given.temperatures} must lie between 0 and 10")
    if given.out:
        answers.check(given.out)
    settings = whisper.Settings(
        given.language, given.task, given.timestamps, given.prompt, given.condition,
        Fallbacks(tuple(given.temperatures)), given.seed,
    )  # fmt: skip
    return given.folder, given.inputs, given.out, settings


def main(words: Sequence[str]) -> None:
    """Prints what is said in each sound. Raises ValueError for what the user can fix, Failure if some are left out."""
    folder, inputs, out, settings = parsed(words)
    model = whisper.open_whisper(folder, experiments.config_class)
    named = predicting.files(inputs, (*sound_files.SUFFIXES, *sound_files.VIDEO_SUFFIXES), "sounds")
    records, bad = [], 0
    for name, file, error in named:
        try:
            if error:
                raise error
            sound = sound_files.read(file)
        except ValueError as problem:
            if len(named) == 1:
                raise
            bad += 1
            progress.say(str(problem))
            records.append({"input": name, "error": str(problem)})
            continue
        found = model.transcribe(sound, settings)
        for line in whisper.lines(found, model.words, settings.timestamps):
            print(f"{name}: {line}")
        records.append({"input": name, **record(found, model)})
    if bad == len(named):
        raise ValueError(f"none of the {bad} inputs can be transcribed")
    if out:
        answers.write(out, records)
    if bad:
        raise command.Failure(f"{bad} of {len(named)} inputs could not be transcribed; all others are")


def record(found: whisper.Transcript, model: whisper.Whisper) -> dict:
    """The text, the language, and the segments with their times in seconds, for a file."""
    text = lambda tokens: re.sub(r"\s+", " ", model.words.decode(tokens)).strip()
    segments = [
        {"start": round(each.start, 2), "end": round(each.end, 2), "text": text(each.tokens)} for each in found.segments
    ]
    whole = " ".join(filter(None, (each["text"] for each in segments)))
    return {"text": whole, "language": found.language, "segments": segments}


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
