# SPDX-License-Identifier: Apache-2.0
"""The Toybox's language."""

import itertools

import pytest

from vsd_jax.toybox.text import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    KINDS,
    ROOM,
    VIEWS,
    Prompt,
    UnknownPromptError,
    parse,
    vocabulary,
)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a red mushroom", Prompt(kind="mushroom", colour="red")),
        ("a mushroom", Prompt(kind="mushroom")),
        ("an orange car", Prompt(kind="car", colour="orange")),
        ("a duck, side view", Prompt(kind="duck", view="side")),
        ("a room", Prompt(kind=ROOM, room=True)),
        ("a blue room", Prompt(kind=ROOM, colour="blue")),
        ("a bear in a room", Prompt(kind="bear", room=True)),
        (
            "a red mushroom in a blue room, back view",
            Prompt(
                kind="mushroom",
                colour="red",
                room=True,
                room_colour="blue",
                view="back",
            ),
        ),
        (
            "a normal map of a mug, overhead view",
            Prompt(kind="mug", normal_map=True, view="overhead"),
        ),
        (
            "a lamp, front view, grey background",
            Prompt(kind="lamp", view="front", background="grey"),
        ),
    ],
)
def test_texts_and_prompts_are_the_same_thing(text, prompt):
    assert parse(text) == prompt
    assert prompt.text() == text


def test_every_prompt_survives_the_round_trip_in_known_words():
    colours = (None, "orange", "blue")
    for kind, colour, view, around in itertools.product(
        KINDS, colours, (None, *VIEWS), (None, *BACKGROUNDS, "room", "red room", "map")
    ):
        prompt = Prompt(
            kind=kind,
            colour=colour,
            view=view,
            background=around if around in BACKGROUNDS else "white",
            room=around in ("room", "red room"),
            room_colour="red" if around == "red room" else None,
            normal_map=around == "map",
        )
        text = prompt.text()
        assert parse(text) == prompt
        assert set(text.replace(",", "").split()) <= set(vocabulary())


@pytest.mark.parametrize(
    "text", ["A  Red Mushroom.", "red mushroom", "the red mushroom, white background"]
)
def test_spelling_is_forgiving(text):
    assert parse(text) == Prompt(kind="mushroom", colour="red")


def test_gray_is_grey():
    assert parse("a cake, gray background").background == "grey"


def test_normal_maps_are_on_black():
    assert parse("a normal map of a cake").background == "black"


def test_unknown_word_is_named_with_its_neighbours_and_the_way_out():
    with pytest.raises(UnknownPromptError) as error:
        parse("a red mushrom")
    message = str(error.value)
    for part in ("'mushrom'", "mushroom", "Grammar", "--config=object:sd21", *COLOURS):
        assert part in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends before an object"),
        ("a red", "ends before an object"),
        ("a mushroom red", "'red' is too much"),
        ("a mushroom in a chair", "'chair' stands where a room"),
        ("a room in a room", "too much"),
        ("a blue room, front view", "no view word"),
        ("a duck in a room, grey background", "hides the background"),
        ("a normal map of a duck, grey background", "always on black"),
        ("a normal map of a duck in a room", "no normal map of a room"),
        ("a normal map of a room", "no normal map of a room"),
        ("a duck, front view, side view", "twice"),
        ("a duck, grey background, side view", "twice or late"),
        ("a duck, red view", "neither a view nor a background"),
        ("a duck,", "neither a view nor a background"),
    ],
)
def test_texts_outside_the_grammar_are_refused_with_the_reason(text, reason):
    with pytest.raises(UnknownPromptError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "dragon"},
        {"kind": "duck", "colour": "teal"},
        {"kind": "duck", "view": "top"},
        {"kind": "duck", "background": "red"},
        {"kind": "duck", "room_colour": "red"},
        {"kind": ROOM, "room_colour": "red"},
    ],
)
def test_prompts_check_their_fields(fields):
    with pytest.raises(ValueError):
        Prompt(**fields)


def test_a_prompt_without_kind_has_no_text():
    with pytest.raises(ValueError, match="without a kind"):
        Prompt(kind=None, colour="red").text()


def test_held_out_pairs_cover_every_colour_once():
    assert len(KINDS) == 16 and len(HELD_OUT_PAIRS) == 8
    assert sorted(colour for _, colour in HELD_OUT_PAIRS) == sorted(COLOURS)
    assert len({kind for kind, _ in HELD_OUT_PAIRS}) == 8


def test_heights_stand_before_views_that_have_them():
    prompt = parse("a red mushroom, Low side view, grey background", heights=True)
    assert (prompt.height, prompt.view, prompt.background) == ("low", "side", "grey")
    assert prompt.text() == "a red mushroom, low side view, grey background"
    for wrong in (
        "high overhead view",
        "high",
        "low high side view",
        "low grey background",
    ):
        with pytest.raises(UnknownPromptError):
            parse(f"a red mushroom, {wrong}", heights=True)
    with pytest.raises(ValueError, match="height"):
        Prompt(kind="mug", height="low")


def test_heights_are_refused_where_the_weights_do_not_know_them():
    with pytest.raises(UnknownPromptError, match="trained without the word 'low'"):
        parse("a red mushroom, low side view")
