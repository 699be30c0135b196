"""Text from files, made fit for where it is shown: a terminal, a shell, a page.

Names of classes, layers, machines and files, and what libraries say of them, may hold anything: sequences that move the
cursor, marks that turn the direction of writing, half a character, an address with a password in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

HARMLESS = frozenset(
    {"allow_bucket_creation", "anonymous", "endpoint_override", "force_virtual_addressing", "region", "scheme"}
)
"""Options of a URI that say where the storage is and not who may use it."""

_STORES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes whose addresses have no port."""

# pathlib makes one slash of two. A sentence goes on after an address.
_ADDRESS = re.compile(
    r"\b((?:[A-Za-z][A-Za-z0-9+.-]*:/|(?:s3|gs|gcs|abfss?|hdfs|viewfs|rediss?|ray|https?|ftp):)/)"
    r"([^\s'\"<>]*[^\s'\"<>;:,.)\]}])"
)
_SPACED_SECRET = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:'\"]*:[^\s/@'\"][^/@'\"]*@")


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, with dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def for_terminal(text: str) -> str:
    """Return text in one line that a terminal shows as it is; what is secret in an address is left out.

    What cannot be printed is escaped as Python does it; every kind of space is one.
    """
    return _visible(without_secrets(text))


def for_shell(*words: str) -> str:
    """Return words of a command, each quoted for a POSIX shell where it needs to be.

    What cannot be printed is written as an escape within ``$'...'``: a terminal into which it is pasted would obey it.
    """
    return " ".join(map(_quoted, words))


def for_page(text: str) -> str:
    """Return text that a page shows as it is, not yet escaped for HTML; what is secret in an address is left out."""
    return _visible(without_secrets(text))


def without_secrets(text: str) -> str:
    """Return text with every URI in it without user, password and the options that may be secret."""
    if ":/" not in text:
        return text
    return _ADDRESS.sub(_without_secrets, _SPACED_SECRET.sub(r"\1", text))


def _visible(text: str) -> str:
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    is_space = character.isspace() and ord(character) > 0x9F  # all others move the cursor
    return " " if is_space else ascii(character)[1:-1]


def _without_secrets(found: re.Match[str]) -> str:
    start, rest = found[1], found[2]
    end = re.search(r"[/?]", rest)
    authority, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    host, colon, port = authority.partition(":")
    # A key that is not encoded may hold a slash: what stands behind the colon is no port then.
    is_key = bool(colon) and not host.startswith("[") and (start.startswith(_STORES) or not port.isdecimal())
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    elif is_key and "@" in path:
        end = re.search(r"[/?]", tail := path.rpartition("@")[2])
        authority, path = (tail[: end.start()], tail[end.start() :]) if end else (tail, "")
    elif is_key:
        authority = f"{host}:..."
    path, mark, options = path.partition("?")
    kept = [option for option in options.split("&") if option.partition("=")[0] in HARMLESS]
    return start + authority + path + (mark if kept or not options else "") + "&".join(kept)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_in_quotes, word)) + "'"


def _in_quotes(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\{number - 0xDC00:03o}"
    if 0xD800 <= number <= 0xDFFF:
        return "?"
    # Of octal digits a shell reads three: what follows may be a digit as well.
    return "".join(f"\\{byte:03o}" for byte in character.encode())
