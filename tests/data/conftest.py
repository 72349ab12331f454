import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from research.data import prepare
from research.data.images.builders import cifar10_jpeg

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the digits prepared in it."""
    path = str(tmp_path_factory.mktemp("tfds"))
    prepare.prepare("digits", data_dir=path)
    return path


@pytest.fixture(scope="session")
def shared_cifar10():
    """The folder with the real CIFAR-10 archives, which does not belong to the repository."""
    path = Path(os.environ.get("TESSERA_SHARED_DATA", ROOT.parent / "shared/data")) / "cifar10"
    if not (path / "train.zip").is_file():
        pytest.skip(f"no CIFAR-10 archives in {path}; set TESSERA_SHARED_DATA")
    return path


def encoded_image(seed, size=(32, 32), file_format="JPEG"):
    """The bytes of an image of noise, `size` is (width, height) in px."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=file_format)
    return buffer.getvalue()


def write_cifar10(folder, replaced=None, per_class=2):
    """Small archives made like the real ones; `replaced` are members with other bytes."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for label, name in enumerate(cifar10_jpeg.CLASSES):
                for number in [*range(per_class), cifar10_jpeg.FIRST_VALIDATION]:
                    member = f"{split}/{name}/{number:04}.jpg"
                    seed = [label, number, split == "train"]
                    archive.writestr(member, (replaced or {}).get(member, encoded_image(seed)))
    return folder


def run_python(*arguments, **kwargs):
    """The finished process of `python ARGUMENTS` in the root of the repository."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)
