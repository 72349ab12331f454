"""Reports of all kinds of tasks, whose groups are computed again by brute force."""

import re

import numpy as np
import pytest

from research.metrics import face_scores, text_scores
from research.tasks import segmentation
from research.trust import collecting, corrupted, looking, measure, page, scoring
from research.trust import groups as trust_groups
from tests.trust.conftest import ROWS


def report(run, tmp_path, **options):
    options = measure.Options(**{"examples": 20, "rows": ROWS, "explained": 2, "compared": 50} | options)
    found = measure.measure(run.task, run.data, run.predict, options, run.variables)
    written = page.write(found, tmp_path, "a run")
    return found, written.read_text()


def collected(run):
    batches = collecting.batches(run.data, "test", ROWS)
    return collecting.collect(run.task, run.data, "test", run.predict, batches)


def test_a_sound_is_scored_by_speaker_and_under_noise(untrained, tmp_path):
    run = untrained("speech_recognition/fsdd_strings", "task.decoder=greedy", "data.eval_buckets=1")
    kinds = ("reverberation",)
    found, text = report(run, tmp_path, kinds=kinds)
    assert found["looks"] == [] and found["copies"]["train"] >= 50 and "Near-copies" in text
    assert found["metric"] == "wer" and {"speaker", scoring.WORDS, scoring.SECONDS} <= found["groups"]["wer"].keys()
    lines, confidence = collected(run).lines, collected(run).confidence
    right = [line["prediction"] == line["references"][0] for line in lines]
    assert found["calibration"]["uncalibrated"]["accuracy"] == pytest.approx(np.mean(right))
    assert found["calibration"]["uncalibrated"]["confidence"] == pytest.approx(np.mean(list(confidence.values())))
    for each in found["groups"]["wer"]["speaker"]["groups"]:
        own = [line for line in lines if line["speaker"] == each["name"]]
        expected = text_scores.wer([line["prediction"] for line in own], own)[0]["wer"]
        assert (each["value"], each["examples"]) == (pytest.approx(expected), len(own))
        assert each["low"] <= each["value"] <= each["high"]
    worst = max(found["groups"]["wer"]["speaker"]["groups"], key=lambda each: each["value"])
    assert found["groups"]["wer"]["speaker"]["worst"] == worst["name"] and re.search(
        f"Worst[^:]*: {worst['name']}[.,]", text
    )
    content = found["corruptions"]
    assert content["examples"] == 20 and list(content["kinds"]) == list(kinds)
    assert content["mean_error"] == pytest.approx(np.mean([*content["kinds"].values()]) / 100)
    given = corrupted.of(run.task, run.data, 20, ROWS)
    own = [line for line in lines if line["index"] in given.indices]
    expected = text_scores.wer([line["prediction"] for line in own], own)[0]["wer"]
    assert content["clean"] == pytest.approx(expected), "without corruption it is the prediction of the split"


def test_a_mask_is_scored_by_drive_and_under_fog(untrained, tmp_path):
    run = untrained("driving_segmentation/camvid_unet")
    found, text = report(run, tmp_path, fields=("name:([0-9])[.]png",), kinds=("fog",))
    lines = collected(run).lines
    ((field, content),) = found["groups"]["miou"].items()
    for each in content["groups"]:
        total = sum(np.array(line["confusion"]) for line in lines if line["name"][-5] == each["name"])
        assert each["value"] == pytest.approx(segmentation.scores(total, run.data.class_names)["miou"])
    assert found["copies"]["test"] == 32 and {"index", "name"} <= found["copies"]["pairs"][0]["train"].keys()
    assert "Corruptions" in text and f"miou by {field}" in text


def test_objects_are_found_by_class_and_size():
    """Boxes of made-up scores, near their objects or not; each takes the object that it overlaps most."""
    rng, lines = np.random.default_rng(0), []
    for index in range(30):
        corner, size = rng.uniform(0, 200, (6, 2)), rng.uniform(10, 150, (6, 2))
        objects = np.concatenate([corner, corner + size], 1)
        boxes = objects[:5] + rng.normal(0, 12, (5, 4))
        labels = [str(each) for each in rng.choice(["a", "b"], 6)]
        truth = {"boxes": objects.tolist(), "labels": labels, "crowd": [0] * 6, "areas": size.prod(1).tolist()}
        scores = rng.random(5).tolist()
        line = {"index": index, "name": f"{index}.png", "boxes": boxes.tolist(), "scores": scores}
        lines.append(line | {"labels": labels[:5], "objects": truth})
    found = scoring._objects(lines)
    hit = {}
    for line in lines:
        taken = set()
        for number in np.argsort(-np.array(line["scores"])):
            best, chosen = 0.5, None
            for index, other in enumerate(line["objects"]["boxes"]):
                same = line["labels"][number] == line["objects"]["labels"][index] and index not in taken
                if same and overlap(line["boxes"][number], other) >= best:
                    best, chosen = overlap(line["boxes"][number], other), index
            taken |= {chosen}
        for index, (name, area) in enumerate(zip(*(line["objects"][key] for key in ("labels", "areas")), strict=True)):
            size = "small" if area < 32**2 else "medium" if area < 96**2 else "large"
            for group in (name, size):
                hit.setdefault(group, []).append(index in taken)
    for field in ("class", "object_size"):
        for each in trust_groups.of_field(found.records, field, found.measure):
            assert each[:3] == (each.name, len(hit[each.name]), pytest.approx(np.mean(hit[each.name])))
            assert each.low < each.value < each.high
    assert set(hit) == {"a", "b", "small", "medium", "large"}


def overlap(one, other):
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[2:], other[2:])
    shared = max(right - left, 0) * max(bottom - top, 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return shared / (area(one) + area(other) - shared)


def test_pairs_of_faces_are_scored_by_person(untrained, tmp_path):
    run = untrained("face_recognition/orl_verification")
    found, _ = report(run, tmp_path, kinds=("contrast",))
    lines = collected(run).lines
    given = (np.array([line[key] for line in lines]) for key in ("similarity", "same", "fold"))
    right = face_scores.fold_accuracies(*given)[0]
    person = lambda path: path.split("/")[0]
    groups = found["groups"]["pair_accuracy"]["person"]["groups"]
    assert {each["name"] for each in groups} == {person(line["path1"]) for line in lines}
    light = {each["name"]: each["examples"] for each in found["groups"]["pair_accuracy"]["light"]["groups"]}
    assert light.keys() == {"bright", "dim", "mixed"} and sum(light.values()) == len(lines)
    for each in groups:
        own = [each["name"] in {person(line["path1"]), person(line["path2"])} for line in lines]
        assert (each["examples"], each["value"]) == (sum(own), pytest.approx(right[own].mean()))
    assert found["corruptions"]["clean"] == pytest.approx(right.mean())


def test_a_text_classifier_is_calibrated_and_corrupted(untrained, tmp_path):
    run = untrained("sentiment/sst2_minilm", "data.eval_buckets=1")
    found, text = report(run, tmp_path, kinds=None)
    assert {"ece", "adaptive_ece", "brier", "nll"} <= found["calibration"]["uncalibrated"].keys()
    assert found["groups"]["accuracy"].keys() == {"parity", scoring.LENGTH}, "the target divides as the parity does"
    assert list(found["corruptions"]["kinds"]) == ["typos", "word_drops"] and "temperature" in text
    given = corrupted.of(run.task, run.data, 20, ROWS)
    lines = collected(run).lines
    clean = np.mean([lines[index]["predicted"] == lines[index]["target"] for index in given.indices])
    assert found["corruptions"]["clean"] == pytest.approx(clean)
    assert [set(each["maps"]) for each in found["looks"]] == [set(looking.DESCRIBED) - {looking.GRAD_CAM}] * 2
    for each in found["looks"]:
        assert {len(scores) for scores in each["maps"].values()} == {len(each["tokens"])}
        assert sum(each["maps"][looking.ROLLOUT]) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "looks.png").stat().st_size > 3000 and "source" in found["copies"]["pairs"][0]["test"]
    options = measure.Options(explained=2, compared=50, shown=False)
    hidden = measure._of_model(run.task, run.data, run.variables, options)
    assert hidden["looks"] == [] and hidden["copies"]["pairs"][0]["test"].keys() == {"index"}
