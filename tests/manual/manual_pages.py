"""The README and the manual as tests read them: pages, blocks of code, and the commands in them.

A comment above a block says how it is tried::

    <!-- test: slow
    --epochs 30 => --epochs 1
    -->

Words after ``test:``: ``slow`` (needs Ray), ``parse`` (is not run, its options are checked all the same), ``status N``
(is the exit status of its commands), ``file NAME`` (is written to that file). Each further line replaces a text of the
block.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "raygen" / "manual"

_BLOCK = re.compile(
    r"(?:^<!-- test:(?P<how>[^\n]*?)(?:\n(?P<changes>.*?))?-->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]*)")


@dataclass(frozen=True)
class Block:
    """Code between fences: as it is shown, and how it is tried."""

    page: str
    line: int
    language: str
    text: str
    how: tuple[str, ...] = ()
    changes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def tried(self) -> str:
        """The text with its changes."""
        text = self.text
        for old, new in self.changes:
            assert old in text, f"{self}: {old!r} is to be replaced, but is not there"
            text = text.replace(old, new)
        return text

    @property
    def is_slow(self) -> bool:
        return "slow" in self.how

    @property
    def status(self) -> int:
        return int(self.how[1]) if self.how[:1] == ("status",) else 0


@dataclass(frozen=True)
class Page:
    """A file of Markdown; ``name`` is its path from the root."""

    name: str
    text: str

    @property
    def blocks(self) -> list[Block]:
        return [_block(self, found) for found in _BLOCK.finditer(self.text)]

    @property
    def prose(self) -> str:
        """What stands outside the blocks and the comments."""
        return re.sub(r"<!--.*?-->", "", _BLOCK.sub("", self.text), flags=re.DOTALL)

    @property
    def inline(self) -> list[str]:
        """Code within the prose."""
        return _INLINE.findall(self.prose)


def _block(page: Page, found: "re.Match[str]") -> Block:
    changes = [line.split(" => ") for line in (found["changes"] or "").splitlines() if line.strip()]
    assert all(len(change) == 2 for change in changes), f"{page.name}: {changes}"
    line = page.text[: found.start("language")].count("\n") + 1
    how = tuple((found["how"] or "").split())
    return Block(page.name, line, found["language"], found["text"], how, tuple((old, new) for old, new in changes))


def read_page(path: Path) -> Page:
    return Page(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def manual_pages() -> list[Page]:
    return [read_page(path) for path in sorted(MANUAL.glob("*.md"))]


def all_pages() -> list[Page]:
    return [read_page(ROOT / "README.md"), *manual_pages()]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command; a line that ends with a backslash goes on."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            if words := shlex.split(part, comments=True):
                yield words


def options(words: str) -> list[str]:
    """Return the names of the options in a text, without ``no-``."""
    return _OPTION.findall(words)
