"""Addresses are lasting, readable, and safe on every file system."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raygen.gallery.evidence import layer_folders, node_stem


@pytest.mark.parametrize("name", ["conv2", "features.3.squeeze", "Mixed_5b.branch1x1", "layer1.0.conv-1"])
def test_a_plain_name_is_its_own_folder(name):
    assert layer_folders([name, "other"])[name] == name


@given(st.lists(st.text(max_size=100), max_size=12))
@example(["conv", "Conv", "CONV"])
@example(["a/b", "a_b", "a\\b", "../b", "..", ".", "", "/", "/etc/passwd"])
@example(["index.html", "style.css", "gallery.json", "aux", "AUX.conv1", "com1.bn", "x" * 300, "é", "e\u0301"])
@example(["a:b", "a?b", "a#b", "a%2fb", "a b", "a\nb", "-rf", "\ud800"])
def test_folders_are_distinct_safe_and_stay_inside(names):
    folders = layer_folders(names)
    assert folders.keys() == set(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(folders)
    for folder in folders.values():
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", folder)
        assert ".." not in folder.split("/")
        assert not folder.endswith(".")
        assert folder.casefold() not in {"index.html", "style.css", "gallery.json"}
        assert folder.casefold().split(".")[0] not in {"aux", "con", "nul", "prn", "com1"}


@given(st.lists(st.text(max_size=8), unique=True, max_size=8), st.randoms())
def test_addresses_do_not_depend_on_the_order_of_the_layers(names, random):
    shuffled = names[:]
    random.shuffle(shuffled)
    assert layer_folders(names) == layer_folders(shuffled)


def test_the_readable_part_of_a_changed_name_remains():
    assert re.fullmatch(r"stem_conv-[0-9a-f]{8}", layer_folders(["stem/conv"])["stem/conv"])


def test_nodes_are_called_by_channel_and_position():
    assert node_stem("conv2:7", 7) == "7"
    assert node_stem("conv2:7@3,4", 7) == "7_at_3_4"
    assert node_stem("fc@1,2:7", 7) == "7"
