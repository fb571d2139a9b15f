# SPDX-License-Identifier: Apache-2.0
"""The Toybox's language: which texts the embedded prior understands.

A text is `[a normal map of] a [colour] kind [in a [colour] room] [, [height] view view]
[, background background]`; view and background words stand in that order, a room
seen from inside has no view word, and only objects without a room have a background.
An overhead view has no height; without a word for it any height of the view is meant.
The words are plain English; everything else is refused with `UnknownPromptError`.
"""

import dataclasses
import difflib
import re

KINDS = (
    "mushroom",
    "snowman",
    "rocket",
    "table",
    "chair",
    "house",
    "tree",
    "donut",
    "robot",
    "car",
    "duck",
    "mug",
    "boat",
    "bear",
    "lamp",
    "cake",
)
ROOM = "room"

# Display RGB in [0, 1]. Far apart also after shading by 0.58 ... 1.05 and jitter:
# brown is darker than the darkest shade of orange.
COLOURS = {
    "red": (0.86, 0.08, 0.09),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (0.99, 0.86, 0.08),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.08, 0.27, 0.88),
    "purple": (0.50, 0.14, 0.72),
    "pink": (1.00, 0.52, 0.74),
    "brown": (0.36, 0.20, 0.10),
}
VIEWS = ("front", "side", "back", "overhead")
OVERHEAD = "overhead"
OVERHEAD_DEG = 60.0
"""Elevation above which a view is an overhead view."""
HEIGHTS = {"low": (-90.0, 15.0), "raised": (15.0, 35.0), "high": (35.0, OVERHEAD_DEG)}
"""Words for a view's elevation: from (exclusive) and up to (inclusive), degrees."""
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0, 0, 0)}

# Pairs that the embedded prior's training never sees: they measure composition.
HELD_OUT_PAIRS = (
    ("mushroom", "blue"),
    ("chair", "red"),
    ("car", "pink"),
    ("duck", "purple"),
    ("house", "green"),
    ("robot", "yellow"),
    ("boat", "brown"),
    ("cake", "orange"),
)

GRAMMAR = (
    "[a normal map of] a [colour] object|room [in a [colour] room] "
    "[, front|side|back|overhead view] [, white|grey|black background]"
)
_ARTICLES = ("a", "an", "the")
_FUNCTION_WORDS = ("a", "an", "in", "of", "normal", "map", "view", "background")
_SPELLINGS = {"gray": "grey"}


class UnknownPromptError(ValueError):
    """A text that is not in the Toybox's language."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a text asks for.

    Attributes:
      kind: one of `KINDS`, "room" (seen from inside), or None = drawn at random.
      colour: one of `COLOURS` (for a room: of its walls), or None = drawn at random.
      room: whether there is a room: always for kind "room", else around the object.
      room_colour: colour of the room around an object, or None = drawn at random.
      view: one of `VIEWS`, or None.
      height: one of `HEIGHTS` beside a view that is not overhead, or None = any.
      background: one of `BACKGROUNDS`; always "black" for normal maps.
      normal_map: world-space normals instead of colours.
    """

    kind: str | None
    colour: str | None = None
    room: bool = False
    room_colour: str | None = None
    view: str | None = None
    height: str | None = None
    background: str = "white"
    normal_map: bool = False

    def __post_init__(self):
        """Checks the fields against each other.

        Raises:
          ValueError: a word is unknown or two fields exclude each other.
        """
        _check_word("kind", self.kind, (None, ROOM, *KINDS))
        _check_word("colour", self.colour, (None, *COLOURS))
        _check_word("room_colour", self.room_colour, (None, *COLOURS))
        _check_word("view", self.view, (None, *VIEWS))
        _check_word("height", self.height, (None, *HEIGHTS))
        _check_word("background", self.background, tuple(BACKGROUNDS))
        if self.normal_map:
            object.__setattr__(self, "background", "black")
        if self.kind == ROOM:
            object.__setattr__(self, "room", True)
            if self.room_colour is not None:
                raise ValueError("the colour of a room alone is `colour`")
            if self.view is not None:
                raise ValueError("a room seen from inside has no view word")
        if self.height is not None and self.view in (None, OVERHEAD):
            raise ValueError("a height goes with a front, side or back view")
        if self.room_colour is not None and not self.room:
            raise ValueError("room_colour is set but room is False")
        if self.room and self.normal_map:
            raise ValueError("there is no normal map of a room: leave the room out")
        if self.room and self.background != "white":
            raise ValueError("a room hides the background: leave its word out")

    def text(self) -> str:
        """The text in its one canonical spelling (white backgrounds are unnamed).

        Raises:
          ValueError: the kind is None, which no text can say.
        """
        if self.kind is None:
            raise ValueError("a prompt without a kind has no text")
        text = _noun_phrase(self.colour, self.kind)
        if self.room and self.kind != ROOM:
            text += " in " + _noun_phrase(self.room_colour, ROOM)
        if self.normal_map:
            text = "a normal map of " + text
        if self.view is not None:
            height = f"{self.height} " if self.height else ""
            text += f", {height}{self.view} view"
        if self.background != "white" and not self.normal_map:
            text += f", {self.background} background"
        return text


def parse(text: str, *, heights: bool = False) -> Prompt:
    """Reads a text; case, articles, spaces and full stops do not matter.

    Args:
      text: e.g. "a red mushroom in a blue room, side view".
      heights: whether words for height may stand in it. The weights in the package were
        trained without them (docs/model_card.md); a training's captions have them.

    Returns:
      The Prompt; `parse(prompt.text(), heights=True) == prompt` for every prompt with a
      kind.

    Raises:
      UnknownPromptError: the text is outside the grammar; names the word at fault.
    """
    clauses = [c.strip().rstrip(".") for c in text.lower().split(",")]
    words = [[_SPELLINGS.get(w, w) for w in c.split()] for c in clauses]
    for word in (w for clause in words for w in clause):
        if word not in vocabulary() and word not in _ARTICLES:
            raise UnknownPromptError(_unknown_word(text, word))
        if word in HEIGHTS and not heights:
            raise UnknownPromptError(
                _message(text, f"its weights were trained without the word '{word}'")
            )
    fields = _parse_things(text, words[0])
    fields |= _parse_suffixes(text, words[1:])
    if fields.get("normal_map") and "background" in fields:
        raise UnknownPromptError(_message(text, "a normal map is always on black"))
    try:
        return Prompt(**fields)
    except ValueError as error:
        raise UnknownPromptError(_message(text, str(error))) from error


def canonical(text: str, *, heights: bool = False) -> str:
    """The one spelling that the prior was trained on; "" stays empty.

    Args:
      text: as of `parse`.
      heights: as of `parse`.

    Raises:
      UnknownPromptError: as `parse`.
    """
    return parse(text, heights=heights).text() if text.strip() else ""


def vocabulary() -> tuple[str, ...]:
    """All words that canonical texts are made of, sorted."""
    words = {*KINDS, ROOM, *COLOURS, *VIEWS, *BACKGROUNDS, *_FUNCTION_WORDS}
    words |= {*HEIGHTS}
    return tuple(sorted(words))


def _noun_phrase(colour: str | None, noun: str) -> str:
    phrase = noun if colour is None else f"{colour} {noun}"
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _parse_things(text: str, words: list[str]) -> dict:
    """Reads the clause before the first comma."""
    words = [w for w in words if w not in _ARTICLES]
    normal_map = words[:3] == ["normal", "map", "of"]
    words = words[3:] if normal_map else words
    colour, kind, rest = _parse_noun(text, words, (*KINDS, ROOM))
    fields = {"kind": kind, "colour": colour, "normal_map": normal_map}
    if rest and (kind == ROOM or rest[0] != "in"):
        raise UnknownPromptError(_message(text, f"'{' '.join(rest)}' is too much"))
    if rest:
        fields["room"] = True
        fields["room_colour"], _, rest = _parse_noun(text, rest[1:], (ROOM,))
    if rest:
        raise UnknownPromptError(_message(text, f"'{' '.join(rest)}' is too much"))
    return fields


def _parse_noun(text: str, words: list[str], nouns: tuple[str, ...]) -> tuple:
    colour = words[0] if words and words[0] in COLOURS else None
    words = words[1:] if colour else words
    if not words or words[0] not in nouns:
        found = f"'{words[0]}' stands where" if words else "the text ends before"
        wanted = "a room" if nouns == (ROOM,) else "an object"
        raise UnknownPromptError(_message(text, f"{found} {wanted} is named"))
    return colour, words[0], words[1:]


def _parse_suffixes(text: str, clauses: list[list[str]]) -> dict:
    fields = {}
    for clause in clauses:
        clause = [w for w in clause if w not in _ARTICLES]
        height = clause[0] if len(clause) == 3 and clause[0] in HEIGHTS else None
        word, noun = clause[-2:] if len(clause) == (3 if height else 2) else ("", "")
        if word in VIEWS and noun == "view":
            name = "view"
        elif word in BACKGROUNDS and noun == "background" and not height:
            name = "background"
        else:
            found = " ".join(clause) or "nothing"
            reason = f"'{found}' after a comma is neither a view nor a background"
            raise UnknownPromptError(_message(text, reason))
        if name in fields or (name == "view" and "background" in fields):
            raise UnknownPromptError(_message(text, f"the {name} comes twice or late"))
        fields[name] = word
        if height:
            fields["height"] = height
    return fields


def _check_word(field: str, word: str | None, known: tuple) -> None:
    if word not in known:
        names = ", ".join(str(k) for k in known)
        raise ValueError(f"{field} is '{word}'; it must be one of: {names}")


def _unknown_word(text: str, word: str) -> str:
    plain = re.sub(r"[^a-z]", "", word)
    near = difflib.get_close_matches(plain, vocabulary(), n=3, cutoff=0.5)
    near = [w for w in near if w not in (*_FUNCTION_WORDS, *HEIGHTS)]
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return _message(text, f"it does not know the word '{word}'{hint}")


def _message(text: str, reason: str) -> str:
    return (
        f"The embedded prior cannot read '{text}': {reason}.\n"
        f"Grammar: {GRAMMAR}\n"
        f"Objects: {', '.join(KINDS)}. Colours: {', '.join(COLOURS)}.\n"
        "For any other text use Stable Diffusion: --config=object:sd21"
    )
