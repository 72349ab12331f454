"""Overrides that make no sense are refused in one line, before anything is read or compiled."""

import pytest

from tests.running import run

CONFIGS = {
    "image_classification": "configs/image_classification/digits_vit.py:smoke",
    "detection": "configs/detection/bccd_fcos.py:smoke",
    "driving_segmentation": "configs/driving_segmentation/camvid_unet.py:smoke",
    "face_recognition": "configs/face_recognition/orl_verification.py:smoke",
    "translation": "configs/translation/tatoeba_en_zh.py:smoke",
    "speech_recognition": "configs/speech_recognition/fsdd_strings.py:smoke",
    "video": "configs/video/digits_vivit.py:smoke",
}
SENSELESS = {
    "image_classification": [
        "data.rotate=1e400", "data.rotate=1e9", "data.shift=1e9", "data.scale=1e400", "data.std=(0.0,)",
        "data.std=(-1.0,)", "data.mean=(1e400,)", "data.workers=100000", "data.prefetch=1000000", "data.pad=1000000",
        "data.image_size=1000000", "data.randaugment_magnitude=1e400", "data.dir=\0", "task.label_smoothing=2",
        "task.label_smoothing=-1", "task.mixup=-1", "task.cutmix=1e400", "model.layer_norm_epsilon=-1",
        "model.depth=1000000", "model.stem_width=-1", f"train.steps=1{'0' * 400}",
    ],
    "detection": ["task.nms_iou=2", "task.focal_gamma=1e400", "task.radius=-1", "data.scale=(1e400,1e400)"],
    "driving_segmentation": ["task.class_weights=(1e400,)", "task.region_weight=-1", "model.decoder_channels=(0,)"],
    "face_recognition": ["task.threshold=2", "task.scale=1e400", "model.embed_dim=0", "model.embed_dropout=1"],
    "translation": [
        "task.temperature=-1", "task.top_p=0", "task.top_k=-1", "task.length_penalty=1e400", "task.z_loss=1e400",
        "model.norm_epsilon=1e400", "data.special_tokens=(0,)", "data.eval_buckets=1000000", "data.vocabulary=\0",
    ],
    "speech_recognition": ["data.range_db=0", "data.max_seconds=1e400", "data.sample_rate=0", "model.strides=()"],
    "video": ["data.frames=1000000", "model.tubelet=0"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("experiment", "override"), [(name, each) for name, overrides in SENSELESS.items() for each in overrides]
)
def test_senseless_values_are_refused(experiment, override, tmp_path):
    words = [f"experiments.{experiment}.main", f"--config={CONFIGS[experiment]}", f"--workdir={tmp_path / 'run'}"]
    error = run([*words, f"--config.{override}"]).error
    assert error.startswith(f"error: config.{override.partition('=')[0]}=")
    assert not (tmp_path / "run").exists()


def test_sizes_of_clips_are_refused_before_a_folder_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    for name in "ab":
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "1.mp4").write_bytes(b"no video")
    error = run([
        "experiments.video.main", f"--config={CONFIGS['video']}", f"--workdir={tmp_path / 'run'}",
        f"--config.data.name=folder:{tmp_path / 'own'}", "--config.data.image_size=64", "--config.data.resize=32",
    ]).error  # fmt: skip
    assert "config.data.resize=32 px must be at least image_size=64" in error


@pytest.mark.parametrize(
    "experiment", ["detection", "driving_segmentation", "translation", "speech_recognition", "video"]
)
def test_folders_of_another_kind_are_refused_before_they_are_prepared(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    for name in "ab":
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "1.png").write_bytes(b"no image")
    outcome = run([
        f"experiments.{experiment}.main", f"--config={CONFIGS[experiment]}", f"--workdir={tmp_path / 'run'}",
        f"--config.data.name=folder:{tmp_path / 'own'}",
    ])  # fmt: skip
    assert outcome.error
    assert not (tmp_path / "data").exists()
