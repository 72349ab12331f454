"""Groups of examples stand in one split together, whatever makes them."""

import collections
import itertools

import numpy as np
import pytest

from research.data import groups


@pytest.mark.parametrize("most", [1, 3, 12])
@pytest.mark.parametrize("counts", [[50], [50, 100]])
def test_parts_hold_whole_groups_and_about_as_many_examples_as_asked(most, counts):
    rng = np.random.default_rng(most)
    sizes = rng.integers(1, most + 1, 200)
    values = rng.permutation(np.repeat([f"g{number}" for number in range(200)], sizes)).tolist()
    parts = groups.hold_out(values, counts)
    assert sorted(np.concatenate(parts)) == list(range(len(values)))
    held = [{values[index] for index in part} for part in parts]
    assert not any(one & other for one, other in itertools.combinations(held, 2))
    for part, wanted in zip(parts, counts, strict=False):
        assert abs(len(part) - wanted) <= most / 2
    again = groups.hold_out(values, counts)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))
    shuffled = groups.hold_out(values[::-1], counts)
    assert {values[::-1][index] for index in shuffled[0]} == held[0], "the order of the examples does not matter"


def test_groups_that_are_too_large_are_left_out():
    """A tenth of 1,100 examples is made of the small groups, not of the one that holds 1,000."""
    values = ["large"] * 1000 + [f"small{number // 10}" for number in range(100)]
    held, rest = groups.hold_out(values, [110])
    assert len(held) >= 90 and "large" in {values[index] for index in rest}
    held, rest = groups.hold_out(["large"] * 1000 + ["huge"] * 3000, [400])
    assert len(held) == 1000, "the smallest, where every one is too large"


def test_each_split_has_a_group_or_there_are_too_few():
    for number in range(20):
        values = [f"{number}{letter}" for letter in "abc"]
        assert [len(part) for part in groups.hold_out(values, [1, 1])] == [1, 1, 1]
        assert [len(part) for part in groups.hold_out(values, [9, 9])] == [1, 1, 1]
    with pytest.raises(ValueError, match="2 are too few to be divided into 3 splits"):
        groups.hold_out(["a", "b"], [1, 1])


def test_rules():
    values = ["a/x_1.wav", "a/x_2.wav", "b/x_1.wav"]
    of = lambda rule: groups.of_values(values, rule, "toy")
    assert of("path") == values
    assert of("path:parent") == ["a", "a", "b"]
    assert of("path:_([0-9])") == ["1", "2", "1"]
    with pytest.raises(ValueError, match="finds no group in 1 of 3 examples of 'toy', such as 'b/x_1"):
        of("path:^(a)")


@pytest.mark.parametrize("rule", ["a", "a:parent", "a:phrases", "a:x(.)y", ""])
def test_what_is_a_rule(rule):
    assert groups.RULE.accepts(rule)


@pytest.mark.parametrize("rule", [":parent", "a:", "a:folder", "a:(", "a:(.)(.)", 3, None])
def test_what_is_none(rule):
    assert not groups.RULE.accepts(rule)


def test_no_phrase_of_a_sentence_that_is_held_out_is_in_train():
    """Sentences of few words, and phrases of them, many of which several sentences have."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(list("abcdefgh"), 8)) for _ in range(60)]
    texts = set(sentences)
    for sentence in sentences:
        words = sentence.split()
        for start in rng.integers(0, 6, 6):
            texts.add(" ".join(words[start : start + int(rng.integers(1, 5))]))
    texts = sorted(texts)
    inside = lambda part, whole: f" {part} " in f" {whole} "
    found = groups.of_values(texts, "text:phrases", "toy")
    assert all(inside(text, whole) for text, whole in zip(texts, found, strict=True))
    assert set(found) == {text for text in texts if not any(inside(text, each) for each in texts if each != text)}
    held, train = groups.hold_out(found, [60], exact_order=True)
    assert 30 < len(held) < 90
    held, train = ([texts[index] for index in part] for part in (held, train))
    assert not [part for part in train for whole in held if inside(part, whole)]
    assert collections.Counter([*held, *train]) == collections.Counter(texts)
