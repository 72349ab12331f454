"""Specs: conversion, checks, overrides, JSON, digests and differences."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.spec import FieldError, Role, Spec, checks, differences, digest, field, flat, from_json, invalid, override
from research.spec import to_json as as_json


class Dense(Spec, tag="dense"):
    width: int = field(default=3, check=checks.at_least(1), doc="units")
    rate: float = 0.1
    names: tuple[str, ...] = ("x",)


class Conv(Spec, tag="conv", version=2):
    kernel: tuple[int, int] = (3, 3)
    bias: bool = field(default=True, renamed="offset")
    padding: str = field(default="same", formerly={"same": "zeros all around"})


class Loop(Spec, tag="loop"):
    steps: int = field(default=5, role=Role.LENGTH, check=checks.at_least(1))
    warmup: int = 0
    log_every: int = field(default=1, role=Role.RUNTIME)
    beam: int = field(default=4, role=Role.INFERENCE)
    later: float = field(default=0.0, absent=0.0)

    def validate(self):
        if self.warmup >= self.steps:
            raise invalid(self, "warmup", f"must be less than steps={self.steps}")


class Whole(Spec, tag="whole"):
    seed: int = field(default=0, role=Role.SEED)
    note: str = field(default="", role=Role.RUNTIME)
    momentum: float | None = None
    model: Dense | Conv = Dense()
    loop: Loop = Loop()


BASE = Whole()


def refusal(*words):
    with pytest.raises(FieldError) as caught:
        override(BASE, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- Values


def test_a_spec_is_frozen_hashable_and_equal_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.seed = 1
    assert hash(Whole()) == hash(BASE) and Whole() == BASE and Whole(seed=1) != BASE


def test_values_are_converted_by_their_annotation():
    made = Dense(rate=1, names=["a", "b"])
    assert (made.rate, type(made.rate), made.names) == (1.0, float, ("a", "b"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"width": 1.5}, "width=1.5 is a float; it must be an int"),
        ({"width": True}, "width=True is a bool; it must be an int"),
        ({"width": 2**63}, "width=9223372036854775808 does not fit 64 bits"),
        ({"width": 10**5000}, "width=a number of 16610 bits does not fit 64 bits"),
        ({"rate": float("nan")}, "rate=nan must be a finite number"),
        ({"rate": 10**400}, "rate=a number of 1329 bits must be a finite number"),
        ({"rate": "fast"}, "rate='fast' is a str; it must be a float"),
        ({"names": "x"}, "names='x' is a str; it must be a tuple"),
        ({"names": (1,)}, "names=1 is an int; it must be a str"),
        ({"names": ("a\0",)}, r"names='a\x00' holds a NUL character"),
    ],
)
def test_what_a_field_does_not_accept_is_named(values, message):
    with pytest.raises(FieldError) as caught:
        Dense(**values)
    assert str(caught.value).startswith(message)


# ---- Overrides


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.integers(1, 2**62), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
def test_what_is_written_is_read_back(width, rate, note):
    made = override(BASE, [f"model.width={width}", f"model.rate={rate!r}", f"note={note}"])
    assert (made.model.width, made.model.rate, made.note) == (width, rate, note)


@pytest.mark.parametrize("text", ["a,b", "('a', 'b')", "['a', 'b']"])
def test_a_tuple_of_words_needs_no_quotes(text):
    assert override(BASE, [f"model.names={text}"]).model.names == ("a", "b")


def test_optional_numbers():
    assert override(BASE, ["momentum=0.9"]).momentum == 0.9
    assert override(Whole(momentum=0.9), ["momentum=None"]).momentum is None
    assert refusal("momentum=high") == "momentum='high' is a str; it must be a float or None"


def test_a_member_of_a_union_is_chosen_by_its_tag_with_its_defaults():
    assert override(BASE, ["model=conv", "model.bias=false"]).model == Conv(bias=False)
    assert override(Whole(model=Conv(bias=False)), ["model=conv"]).model == Conv()
    assert refusal("model=tree") == "model='tree' is unknown; choose from conv, dense"
    assert refusal("model=conv", "model.width=3").startswith("model.width is unknown; choose from kernel, bias")
    lost = "model=conv begins with its defaults, so width before it would be lost; put it first"
    assert refusal("model.width=9", "model=conv") == lost


def test_checks_run_on_the_final_values():
    made = override(BASE, ["loop.warmup=7", "loop.steps=9"])  # 7 does not fit the steps before
    assert (made.loop.warmup, made.loop.steps) == (7, 9)
    assert refusal("loop.warmup=5") == "loop.warmup=5 must be less than steps=5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loop.stepz=3"], r"loop\.stepz is unknown; did you mean steps\? \(tests/spec/test_spec\.py:\d+\)"),
        (["lop.steps=3"], r"lop is unknown; did you mean loop\?"),
        (["loop=3"], r"loop='3' is a group; set one of its fields: steps, warmup"),
        (["loop.steps.more=3"], r"loop\.steps\.more is unknown: the field above it is not a group"),
        (["loop.steps"], r"loop\.steps has no value; write loop\.steps=VALUE"),
        (["loop.steps=[[[["], r"loop\.steps='\[\[\[\[' is a str; it must be an int"),
        (["loop.steps=" + "(" * 5000], r"loop\.steps='\(+\.\.\. is a str"),
    ],
)
def test_a_mistyped_word_is_answered_with_what_is_near(words, message):
    assert re.match(message, refusal(*words))


def test_the_last_word_for_a_field_wins():
    assert override(BASE, ["seed=1", "seed=2"]).seed == 2


# ---- JSON


@pytest.mark.parametrize("value", [BASE, Whole(model=Conv(kernel=(1, 5))), Whole(momentum=0.5, loop=Loop(later=2.0))])
def test_json_round_trip(value):
    assert from_json(Whole, json.loads(json.dumps(as_json(value)))) == value


def test_a_field_younger_than_the_json_gets_its_absent_value():
    content = as_json(Whole(loop=Loop(later=3.0)))
    del content["loop"]["later"]
    assert from_json(Whole, content).loop.later == 0.0
    del content["loop"]["beam"]
    with pytest.raises(FieldError, match=r"loop\.beam is missing; it was written by another version"):
        from_json(Whole, content)


@pytest.mark.parametrize("content", [3, [], None, {"seed": {}}, {"model": {"spec": "tree@1"}}, {"nothing": 1}])
def test_json_that_describes_no_spec_is_refused(content):
    with pytest.raises(FieldError):
        from_json(Whole, (as_json(BASE) | content) if isinstance(content, dict) else content)


# ---- Digests and differences


def test_the_digest_is_that_of_the_canonical_json():
    # Written by hand: all fields that a result depends on, with tags and versions; no seed, log_every, note, later.
    text = (
        '{"loop": {"beam": 4, "spec": "loop@1", "steps": 5, "warmup": 0}, '
        '"model": {"names": ["x"], "rate": 0.1, "spec": "dense@1", "width": 3}, "momentum": null, "spec": "whole@1"}'
    )
    import hashlib

    assert digest(BASE) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_the_digest_changes_with_what_a_result_depends_on_alone():
    same = ["seed=3", "note=x", "loop.log_every=7"]
    assert {digest(override(BASE, [word])) for word in same} == {digest(BASE)}
    other = ["momentum=0.1", "model=conv", "model.width=4", "loop.steps=6", "loop.beam=5", "loop.later=1.0"]
    assert len({digest(BASE), *(digest(override(BASE, [word])) for word in other)}) == len(other) + 1


def test_what_was_renamed_keeps_its_digest_and_is_read_from_older_json_and_commands():
    class OldConv(Spec, tag="conv", version=2):
        kernel: tuple[int, int] = (3, 3)
        offset: bool = True
        padding: str = "zeros all around"

    assert digest(Conv()) == digest(OldConv())
    assert from_json(Conv, as_json(OldConv())) == Conv()
    assert digest(Conv(padding="valid", bias=False)) == digest(OldConv(padding="valid", offset=False))
    assert override(BASE, ["model=conv", "model.offset=False", "model.padding=zeros all around"]).model == Conv(
        bias=False
    )


def test_an_int_and_the_float_that_it_stands_for_have_one_digest():
    assert digest(Whole(model=Dense(rate=1))) == digest(Whole(model=Dense(rate=1.0)))


def test_differences_by_role():
    other = override(BASE, ["seed=1", "loop.steps=9", "loop.log_every=2", "loop.beam=1", "model.width=4"])
    assert differences(BASE, other) == (
        ["loop.log_every: 1 -> 2", "loop.steps: 5 -> 9"],
        ["loop.beam: 4 -> 1", "model.width: 3 -> 4", "seed: 0 -> 1"],
    )
    assert "loop.beam: 4 -> 1" in differences(BASE, other, inference=True)[0]
    assert "model.width: 3 -> absent" in differences(BASE, Whole(model=Conv()))[1]


def test_flat_names_every_value():
    assert flat(Whole(model=Conv())) == {
        "seed": 0, "note": "", "momentum": None, "model.kernel": (3, 3), "model.bias": True, "model.padding": "same",
        "loop.steps": 5, "loop.warmup": 0, "loop.log_every": 1, "loop.beam": 4, "loop.later": 0.0,
    }  # fmt: skip
