"""How lists of nodes are written. Where a name without quotation marks ends depends on the names that are known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator

from raygen.errors import NodeError
from raygen.notation.items import TOO_LARGE, Channels, Choice, Ending, Item, Name, Weighted, fold, quote
from raygen.notation.node import QUOTED, read_name
from raygen.notation.terms import CHANNEL, WEIGHT

_SEPARATORS = re.compile(r"[\s,]*")
_QUOTED = re.compile(QUOTED, re.DOTALL)
_BRACED = re.compile(r"\{([^}]*)\}")
_CHANNELS = re.compile(r"(\*)(?![^\s,@])|([0-9]+)(?:-([0-9]+))?(?![^\s,@])")
_ENDING = re.compile(rf"@(?:({CHANNEL}),({CHANNEL})|(mean)|(relu))(?![^\s,@])")
_SIGN = re.compile(r"\s*([+-]?)\s*")
_FACTOR = re.compile(rf"(?:({WEIGHT})\s*\*\s*)?")
_NUMBER = re.compile(r"([0-9]+)\s*(?=[+\-\]])")
_SPACE = re.compile(r"\s*")

_LAYER_WORD = re.compile(r"[^\s,:@]*")
_CLASS_WORD = re.compile(r"[^\s,@]*")
_TERM_WORD = re.compile(r"[^+\-\]]*")

_PART = re.compile(r".[^\s,@]*", re.DOTALL)
_END_OF_ITEM = re.compile(r"[\s,]|\Z")
_END_OF_LAYER = re.compile(r"(?<=\S)(?:[\s,:@]|\Z)")
_END_OF_CLASS = re.compile(r"(?<=\S)(?:[\s,@]|\Z)")
_END_OF_TERM = re.compile(r"[+\-\]]")

_MARKS = ('"', "'")
_SUM = "give channels with signs and weights, such as [0.5*12+7] or [3-5]"

_WHOLE = 60
"""Characters from a layer's name to an item up to which messages show what stands between them."""


def read_list(text: str, layers: Iterable[str], classes: Iterable[str]) -> Iterator[Item]:
    """Yield the items of a list of nodes; ``raygen.networks.parse_nodes`` says how they are written.

    Args:
        text: the list.
        layers: names of the network's layers, and
        classes: of its classes: such a name may hold spaces, commas and colons without quotation marks.

    Raises:
        NodeError: at the first item that is not written like one.
    """
    return _Reader(text, _Known(layers, str), _Known(classes, fold)).items()


class _Known:
    """Known names, compared as ``fold`` returns them."""

    def __init__(self, names: Iterable[str], fold: Callable[[str], str]) -> None:
        self._fold = fold
        self._keys = {key for name in names if (key := fold(name))}
        self._longest = max(map(len, self._keys), default=0)
        self.spaced = any(" " in key for key in self._keys)

    def __contains__(self, name: str) -> bool:
        return self._fold(name) in self._keys

    def end(self, text: str, begin: int, ends: re.Pattern[str]) -> int:
        """Return where the longest known name ends that begins at ``begin``; ``begin`` itself if there is none."""
        found = begin
        if text[begin : begin + 1].isspace():
            return found
        for mark in ends.finditer(text, begin + 1):
            key = self._fold(text[begin : mark.start()])
            if len(key) > self._longest:
                break
            if key in self._keys:
                found = mark.start()
        return found


class _Reader:
    """Reads a list from left to right; ``_at`` is how far it has come."""

    def __init__(self, text: str, layers: _Known, classes: _Known) -> None:
        self._text, self._layers, self._classes = text, layers, classes
        self._at = 0
        self._start = 0  # of the item
        self._named = slice(0, 0)  # the layer's name with its colon, in this item or one before

    def items(self) -> Iterator[Item]:
        layer: Name | None = None
        separators = self._take(_SEPARATORS)
        while self._at < len(self._text):
            self._start = self._at
            if layer is not None and "," in separators[0] and self._is_channel():
                choice, ending = self._choice(), self._ending()
                yield Item(layer, choice, ending, self._written(self._at), continues=True)
            else:
                self._named = slice(self._start, self._start)
                name, layer, choice = self._layer(), None, None
                self._named = slice(self._start, self._at + 1)
                if self._text.startswith(":", self._at):
                    self._at += 1
                    layer, choice = name, self._choice()
                ending = self._ending()
                yield Item(name, choice, ending, self._written(self._at), alone=layer is None)
            separators = self._take(_SEPARATORS)

    def _is_channel(self) -> bool:
        """Whether what follows a comma is a channel of the layer before, and not a layer."""
        text, at = self._text, self._at
        if _CHANNELS.match(text, at) or text.startswith(("[", "{"), at):
            return True
        if quoted := _QUOTED.match(text, at):
            return not text.startswith(":", quoted.end())
        layer, known = self._known_layer(), self._classes.end(text, at, _END_OF_CLASS)
        if layer > at and (text.startswith(":", layer) or known <= layer):
            return False
        word = text[at : self._word(_LAYER_WORD, at)]
        return known > at or not (text.startswith(":", at + len(word)) or "*" in word)

    def _layer(self) -> Name:
        end = self._known_layer()
        if self._text.startswith(_MARKS, self._at):
            return self._quoted(end, after=":@")
        return self._name(end if end > self._at else self._unknown(_LAYER_WORD, self._layers))

    def _known_layer(self) -> int:
        """Return where a known layer's name ends, or where it would begin.

        A plain name before a colon goes before a longer one, so that what ``str(node)`` wrote is read as it was meant.
        """
        end = self._word(_LAYER_WORD, self._at)
        if self._text.startswith(":", end) and self._text[self._at : end] in self._layers:
            return end
        return self._layers.end(self._text, self._at, _END_OF_LAYER)

    def _choice(self) -> Choice:
        if self._text.startswith("[", self._at):
            return self._sum()
        found = _CHANNELS.match(self._text, self._at)
        if found is None:
            return self._class(_END_OF_CLASS)
        self._at = found.end()
        return None if found[1] else Channels(_count(found[2]), _count(found[3] or found[2]))

    def _class(self, ends: re.Pattern[str]) -> Name:
        known, in_sum = self._classes.end(self._text, self._at, ends), ends is _END_OF_TERM
        if self._text.startswith(_MARKS, self._at):
            return self._quoted(known, after="+-]" if in_sum else "@")
        if braced := _BRACED.match(self._text, self._at):
            self._at = braced.end()
            self._check_end("+-]" if in_sum else "@")
            return Name(braced[1], quoted=True)
        if known > self._at:
            return self._name(known)
        if self._text.startswith("{", self._at):
            what = f"unknown class '{quote(self._text[self._at :])}', whose brace is not closed"
            raise self._fault(what, "put } at the end of the name", len(self._text))
        return self._name(self._word(_TERM_WORD, self._at) if in_sum else self._unknown(_CLASS_WORD, self._classes))

    def _sum(self) -> Weighted:
        closed = self._text.find("]", self._at) + 1 or len(self._text)
        terms: list[tuple[int | Name, float]] = []
        self._at += 1
        while not (self._text.startswith("]", self._at) and terms):
            sign, factor = self._take(_SIGN)[1], self._take(_FACTOR)[1]
            weight = float(factor or 1)
            if not math.isfinite(weight):
                raise self._fault(f"the weight {quote(factor)} is too large", _SUM, closed)
            number = _NUMBER.match(self._text, self._at)
            name: int | Name = _count(number[1]) if number else self._class(_END_OF_TERM)
            self._at = number.end() if number else self._take(_SPACE).end()
            if (terms and not sign) or name == Name("") or self._at == len(self._text):
                raise self._fault("is no weighted sum", _SUM, closed)
            terms.append((name, -weight if sign == "-" else weight))
        self._at += 1
        self._check_end("@")
        return tuple(terms)

    def _ending(self) -> Ending:
        """Read what the item ends with, each kind at most once."""
        position, kinds = None, set[str]()
        while self._text.startswith("@", self._at):
            found = _ENDING.match(self._text, self._at)
            if found is None:
                what = f"'{quote(self._rest())}' is no position"
                raise self._fault(what, "give @row,column, such as @3,4, or @mean, or @relu")
            kind = "relu" if found[4] else "position"
            if kind in kinds:
                raise self._fault(f"'{found[0]}' comes after another one", "give one", found.end())
            kinds.add(kind)
            if found[1]:
                position = int(found[1]), int(found[2])
            self._at = found.end()
        return Ending(position, "position" in kinds and position is None, "relu" in kinds)

    def _quoted(self, known: int, *, after: str) -> Name:
        """Read a name in quotation marks, or a known name that begins with one; see ``_check_end`` for ``after``."""
        found = _QUOTED.match(self._text, self._at)
        if found is None and known > self._at:
            return self._name(known)
        if found is None:
            mark = self._text[self._at]
            right = f"put {mark} at the end of the name as well"
            raise self._fault(f"the quotation mark {mark} is not closed", right, len(self._text))
        self._at = found.end()
        self._check_end(after)
        return Name(read_name(found[0]), quoted=True)

    def _name(self, end: int) -> Name:
        begin, self._at = self._at, end
        return Name(self._text[begin:end].rstrip())

    def _unknown(self, word: re.Pattern[str], known: _Known) -> int:
        """Return where an unknown name seems to end: where some are of several words, it may be one of these."""
        end = self._word(word, self._at)
        while known.spaced and end > self._at and "*" not in self._text[self._at : end]:
            begin = self._word(_SPACE, end)
            after = self._word(word, begin)
            is_layer = self._layers.end(self._text, begin, _END_OF_LAYER) > begin
            if begin in (end, after) or is_layer or ":" in self._text[begin:after]:
                break
            end = after
        return end

    def _word(self, word: re.Pattern[str], begin: int) -> int:
        """Return the end of what ``word``, which matches everywhere, matches from ``begin`` on."""
        found = word.match(self._text, begin)
        assert found is not None
        return found.end()

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Read what ``pattern``, which matches everywhere, matches here."""
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return found

    def _check_end(self, after: str) -> None:
        """Raise NodeError if the item goes on with something else than one of ``after``."""
        if not (_END_OF_ITEM.match(self._text, self._at) or self._text[self._at] in after):
            what = f"'{quote(self._rest())}' follows without a comma or a space"
            raise self._fault(what, "put one between two items")

    def _rest(self) -> str:
        """Return what is left of the item, or of its part up to the next ``@``."""
        found = _PART.match(self._text, self._at)
        return found[0] if found else ""

    def _fault(self, what: str, right: str, end: int | None = None) -> NodeError:
        if end is None:
            found = _END_OF_ITEM.search(self._text, self._at)
            end = found.start() if found else len(self._text)
        return NodeError(what, where=f"nodes {quote(self._written(end))}", right=right)

    def _written(self, end: int) -> str:
        """Return the item as it is written up to ``end``, with its layer's name before it."""
        begin = self._named.start
        if self._start == begin or end - begin <= _WHOLE:
            return self._text[begin:end]
        return f"{self._text[self._named]}...,{self._text[self._start : end]}"


def _count(digits: str) -> int:
    """Return a number; one of more digits than any channel has becomes one that no layer has either."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else TOO_LARGE
