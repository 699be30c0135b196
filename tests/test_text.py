"""Text from files, made fit for a terminal, a shell and a page."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygen.errors import RaygenError, StoreError, UnfinishedError
from raygen.text import for_page, for_shell, for_terminal, without_secrets

HOSTILE = [
    ("a\x1b[2Jb", r"a\x1b[2Jb"),
    ("a\x9b31mb", r"a\x9b31mb"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("two\nlines\rback\tend\x0b\x0c", r"two\nlines\rback\tend\x0b\x0c"),
    ("\x00\x7f\x85", r"\x00\x7f\x85"),
    ("a\u202egpj.exe\u2066", r"a\u202egpj.exe\u2066"),
    ("\ufeffa\u200bb\u00adc", r"\ufeffa\u200bb\xadc"),
    ("\udcff\ud800", r"\udcff\ud800"),
    ("\U000e0041", r"\U000e0041"),
    ("\u2028\u2029\xa0", "   "),
    ("Löwe 狮子 🦁 e\u0301 c:\\x", "Löwe 狮子 🦁 e\u0301 c:\\x"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_a_terminal_would_obey_is_escaped_and_all_else_is_shown(text, shown):
    assert for_terminal(text) == for_page(text) == for_terminal(shown) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_a_line_that_can_be_printed(text):
    shown = for_terminal(text)
    assert shown.isprintable()
    assert for_terminal(shown) == shown
    shown.encode()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=3))
def test_a_shell_reads_the_same_words_and_a_terminal_nothing_else(words):
    command = for_shell(*words)
    assert command.isprintable()
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' begin {command}"], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    ).stdout
    assert read.split(b"\0")[1:-1] == [word.encode() for word in words]


def test_a_file_name_that_is_no_utf8_reaches_the_shell_as_it_is():
    word = b"run-\xff'\x01".decode(errors="surrogateescape")
    read = subprocess.run(["bash", "-c", f"printf %s {for_shell(word)}"], check=True, capture_output=True).stdout
    assert read == b"run-\xff'\x01"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/run", "s3://bucket/run"),
        ("out = 's3://KEY:SECRET@bucket/run' is no", "out = 's3://bucket/run' is no"),
        ("s3:/KEY:SECRET@bucket/w.pt: no", "s3:/bucket/w.pt: no"),
        ("s3://KEY:SEC/RET@bucket/run", "s3://bucket/run"),
        ("s3://KEY:SEC?RET@bucket/run", "s3://bucket/run"),
        ("s3://KEY:SE CRET@bucket/run", "s3://bucket/run"),
        ("s3://KEY:SEC@RET@bucket/run@2", "s3://bucket/run@2"),
        ("s3://KEY:12/SECRET@bucket/run", "s3://bucket/run"),
        ("s3://SECRET@bucket", "s3://bucket"),
        ("s3://KEY:SECRET", "s3://KEY:..."),
        ("s3://b/r?secret_key=SECRET&region=x&access_key=SECRET; go", "s3://b/r?region=x; go"),
        ("https://h/p?X-Amz-Signature=SECRET", "https://h/p"),
        ("redis://:SECRET@host:6379 (no)", "redis://host:6379 (no)"),
        ("two: gs://SECRET@a/b and s3://K:SECRET@c/d.", "two: gs://a/b and s3://c/d."),
        # What holds no secret stays.
        ("s3://bucket/run?..., now", "s3://bucket/run?..., now"),
        ("hdfs://host:9000/run@2", "hdfs://host:9000/run@2"),
        ("ray://127.0.0.1:10001", "ray://127.0.0.1:10001"),
        ("http://[::1]:9/x", "http://[::1]:9/x"),
        ("s3://bucket/run: no unit conv2:7@3,4 (s3://other)", "s3://bucket/run: no unit conv2:7@3,4 (s3://other)"),
        ("file:///tmp/a@b/c.html", "file:///tmp/a@b/c.html"),
        ("conv2:7@3,4 a/b@c", "conv2:7@3,4 a/b@c"),
    ],
)
def test_no_text_shows_what_is_secret_in_an_address(text, shown):
    assert without_secrets(text) == for_terminal(text) == for_page(text) == shown


def test_every_error_is_a_line_that_can_be_printed():
    hostile = "a\x1b[2J\nb\u202e s3://KEY:SECRET@bucket"
    shown = r"a\x1b[2J b\u202e s3://bucket"
    assert str(StoreError(hostile, where=hostile, right=hostile)) == f"{shown}: {shown}; {shown}"
    assert str(UnfinishedError(hostile)) == str(RaygenError(hostile)) == shown
    assert len(str(StoreError("x" * 10**6, where="here", right="there"))) < 5000
