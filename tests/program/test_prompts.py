# SPDX-License-Identifier: Apache-2.0
"""The prompt that is meant is the prompt that is embedded."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs

from configs import object as object_config
from vsd_jax.diffusion import prompt
from vsd_jax.program.build import texts as build_texts
from vsd_jax.program.prior import diffusion_prior, hub, text_tower
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.toybox import text

# Tokens: 12 are read, with the beginning and the end of the text.
SHORT = "a red mushroom"
LONG = "a red mushroom, in a pink room, a blue table, a brown bear"


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    """The texts of a tiny Stable Diffusion."""
    folder = tiny_runs.write_stable_diffusion("sd15", tmp_path_factory.mktemp("sd15"))
    return diffusion_prior.load_prior(folder)[2]


@pytest.fixture(scope="module")
def embedded():
    """The texts of the embedded prior."""
    return diffusion_prior.load_prior("toybox")[2]


def stable_diffusion(**changes):
    config = object_config.get_config("smoke")
    config.prior.path = "some/model"
    config.eval.prior_draws = 1
    return with_changes(config, changes)


def with_changes(config, changes):
    config.update_from_flattened_dict(changes)
    return config_lib.validate(config)


def assert_same(found, expected):
    """But for what rounding does to batches of other sizes."""
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_short_prompt_is_left_alone(encode):
    said = []
    config = stable_diffusion(prompt=SHORT)
    prompts = build_texts.make_prompts(config, encode, say=said.append)
    view = encode([SHORT + ", back view, black background"])[0]
    assert_same(prompts["text"][prompt.BACK, 2], view)
    assert not said


def test_a_long_prompt_keeps_the_words_of_view_and_background(encode):
    said = []
    config = stable_diffusion(prompt=LONG)
    prompts = build_texts.make_prompts(config, encode, say=said.append)
    # 12 - 2 tokens; ", overhead view, black background" are 6.
    used = "a red mushroom"
    (line,) = said
    assert "in a pink room, a blue table, a brown bear" in line and repr(used) in line
    for row, view in enumerate(prompt.VIEWS):
        for column, word in enumerate(config.render.background_words):
            expected = encode([f"{used}, {view} view{word}"])[0]
            assert_same(prompts["text"][row, column], expected)
            plain = encode([used + word])[0]
            assert_same(prompts["score"][row, column], plain)
    rows = np.asarray(prompts["text"]).reshape(12, -1)
    assert len(np.unique(rows, axis=0)) == 12  # four views on three backgrounds
    judged = build_texts.make_check_texts(config, encode)
    assert len(np.unique(np.asarray(judged)[:4].reshape(4, -1), axis=0)) == 4
    assert len(said) == 1


def test_the_prefix_stays_too(encode):
    said = []
    config = stable_diffusion(
        **{"prompt": LONG, "prompt_prefix": "a normal map of "},
        **{"render.background_words": ("", "", "")},
    )
    prompts = build_texts.make_prompts(config, encode, say=said.append)
    expected = encode(["a normal map of a red, side view"])[0]
    assert_same(prompts["text"][prompt.SIDE, 0], expected)
    assert "'mushroom, in a pink room" in said[0]


def test_a_long_negative_prompt_is_told(encode):
    said = []
    config = stable_diffusion(prompt=SHORT, negative_prompt=LONG)
    prompts = build_texts.make_prompts(config, encode, say=said.append)
    (line,) = said
    used = "a red mushroom, in a pink room, a"
    assert "negative prompt" in line and "'blue table, a brown bear'" in line
    assert_same(prompts["negative"][0, 0], encode([used])[0])


def test_source_words_count_too(encode):
    said = []
    config = stable_diffusion(
        **{"prompt": "a red mushroom in a room", "vsd.method": "bridge"},
        **{"family.source_words": ", a brown bear"},
    )
    prompts = build_texts.make_prompts(config, encode, say=said.append)
    # 12 - 2 tokens; ", a brown bear, black background" are 7.
    expected = encode(["a red mushroom, a brown bear, black background"])[0]
    assert_same(prompts["source"][0, 2], expected)
    assert "'in a room'" in said[0]


def test_no_room_for_one_word_is_a_sentence(encode):
    config = stable_diffusion(prompt="Donaudampfschifffahrtsgesellschaft")
    with pytest.raises(ConfigError, match="12 tokens.*not one word of the prompt"):
        build_texts.make_prompts(config, encode)
    config = stable_diffusion(prompt=SHORT, prompt_prefix="a normal map of a view ")
    with pytest.raises(ConfigError, match="prompt_prefix"):
        build_texts.make_prompts(config, encode)


def test_any_other_text_that_is_cut_is_told(tmp_path):
    said = []
    folder = tiny_runs.write_stable_diffusion("sd15", tmp_path)
    encode = diffusion_prior.load_prior(folder, say=said.append)[2]
    encode([SHORT, LONG, LONG])
    assert len(said) == 2 and "'blue table, a brown bear'" in said[1]


SPELLINGS = {
    "a red mushroom": [
        *("the red mushroom", "red mushroom", "A Red MUSHROOM.", "a  red\tmushroom "),
    ],
    "an orange house in a blue room, side view": [
        "the orange house in the blue room,side view",
        "Orange house in blue room. , Side  View",
    ],
    "a mug, front view, grey background": [
        *(
            "a mug, front view, gray background",
            "the mug.,front view,the grey background",
        ),
    ],
    "a duck": ["a duck, white background", "the duck"],
    "a normal map of a duck, back view": ["a normal map of the duck, back view"],
    "": [" "],
}


@pytest.mark.parametrize("wanted", SPELLINGS)
def test_what_the_grammar_accepts_is_sent_in_one_spelling(embedded, wanted):
    others = SPELLINGS[wanted]
    expected = embedded([wanted])
    for other in others:
        np.testing.assert_array_equal(embedded([other]), expected)
    assert embedded.count_tokens(others[0]) == embedded.count_tokens(wanted)


def test_a_copy_of_the_embedded_prior_reads_the_same(embedded, tmp_path):
    folder = shutil.copytree(hub.TOYBOX, tmp_path / "copy")
    assert text_tower.reads_toybox(folder)
    encode = diffusion_prior.load_prior(folder)[2]
    expected = embedded(["a red mushroom"])
    np.testing.assert_array_equal(encode(["the red mushroom"]), expected)
    with pytest.raises(RunError, match="'corgi'"):
        encode(["a corgi"])


def test_stable_diffusion_is_no_copy(tmp_path):
    folder = tiny_runs.write_stable_diffusion("sd15", tmp_path)
    assert not text_tower.reads_toybox(folder)  # it has a vae/
    shutil.rmtree(folder / "vae")
    assert text_tower.reads_toybox(folder)
    file = folder / "tokenizer" / "vocab.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"the</w>": len(words)}))
    assert not text_tower.reads_toybox(folder)


@pytest.mark.parametrize(
    "words, match",
    [
        (", blck background", "did you mean black"),
        (", on a table", "'on'"),
        (" grey background", "is too much"),
        (", side view", "more than a background"),
        (" in a blue room", "more than a background"),
        (", side view, grey background", "more than a background"),
    ],
)
def test_background_words_are_checked_by_the_grammar(words, match):
    config = object_config.get_config()
    config.render.background_words = ("", words, ", black background")
    with pytest.raises(ConfigError, match=f"render.background_words=(.|\n)*{match}"):
        config_lib.validate(config)
    config.prior.path = "some/model"
    config_lib.validate(config)


def test_background_words_may_be_spelled_otherwise(embedded):
    config = object_config.get_config()
    config.render.background_words = ("", ", Gray background", ", the black background")
    config.prompt = "The red mushroom."
    prompts = build_texts.make_prompts(config_lib.validate(config), embedded)
    expected = embedded(["a red mushroom, side view, grey background"])[0]
    assert_same(prompts["text"][prompt.SIDE, 1], expected)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"prompt": "a duck, White BACKGROUND"}, "adds those words itself"),
        ({"prompt_prefix": "a normal map of "}, "make a text that is not known"),
        (
            {"vsd.method": "bridge", "family.source_words": ", blurry"},
            "make a text that is not known",
        ),
    ],
)
def test_texts_made_of_several_keys_are_checked(changes, match):
    config = object_config.get_config()
    with pytest.raises(ConfigError, match=match):
        with_changes(config, changes)


def test_every_canonical_text_fits(embedded):
    longest = text.Prompt(
        kind="mushroom",
        colour="orange",
        room=True,
        room_colour="purple",
        view="overhead",
    )
    for wanted in (longest, text.Prompt(kind="tree", view="front", background="grey")):
        assert embedded.count_tokens(wanted.text()) <= embedded.length
