"""The run's facts as lines, and the command that draws a node again."""

import json
import shlex
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from raygen.gallery.facts import Limits, facts, limits, network_name, redraw_command

DOCUMENT = {
    "request": {
        "network": "lenet",
        "weights_hash": "0123456789abcdef" * 4,
        "data": None,
        "settings": {"sigma": 10.0, "tilt": None, "crop": True, "adjusted": False, "step_size": 0.1, "seed": 7,
                     "r_hat": 1.05, "ess": 50},
        "profile": {"conv2": {"step_size": 0.2}},
    },
    "about": {"raygen": "0.1.0", "weights": "my weights.pt"},
}  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def test_facts_name_every_setting_once_and_shorten_hashes():
    first, rest = facts(DOCUMENT)
    shown = {fact.name: fact.value for fact in (*first, *rest)}
    assert shown == {
        "network": "lenet", "weights": "my weights.pt", "weights_hash": "0123456789ab…", "sigma": "10", "seed": "7",
        "raygen": "0.1.0", "crop": "yes", "adjusted": "no", "step_size": "0.1", "r_hat": "1.05", "ess": "50",
        "profile.conv2.step_size": "0.2",
    }  # fmt: skip
    assert [fact.name for fact in first] == ["network", "weights", "weights_hash", "sigma", "seed", "raygen"]
    assert first[2].full == "0123456789abcdef" * 4


def test_long_lists_are_cut_and_kept_whole_beside():
    _, (fact,) = facts({"request": {"layers": list(range(20))}})
    assert fact.value == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert fact.full.endswith("18, 19")


def test_the_command_gives_the_layers_own_settings():
    words = shlex.split(" ".join(redraw_command(DOCUMENT, "conv2:7@1,2", "conv2")))
    assert words == [
        "raygen", "sample", "--nodes", "conv2:7@1,2", "--out", "redrawn/conv2_7_1_2", "--network", "lenet",
        "--weights", "my weights.pt", "--sigma", "10.0", "--crop", "--no-adjusted", "--step-size", "0.2", "--seed", "7",
        "--r-hat", "1.05", "--ess", "50",
    ]  # fmt: skip
    assert "--step-size 0.1" in redraw_command(DOCUMENT, "conv1:0", "conv1")


def test_the_command_gives_the_input_that_the_run_had():
    request = {"network": "net:make", "input_shape": [3, 128, 128], "mean": [0.5, 0.25, 0.125], "std": [1.0, 2.0, 4.0]}
    words = redraw_command({"request": request}, "conv2:7", "conv2")
    assert words[4:] == ("--input-size 128", "--channels 3", "--mean 0.5,0.25,0.125", "--std 1.0,2.0,4.0")
    oblong = redraw_command({"request": request | {"input_shape": [1, 20, 30]}}, "conv2:7", "conv2")
    assert oblong[4:6] == ("--input-size 20x30", "--channels 1")


def read_by_shell(command: str) -> list[str]:
    script = ["bash", "-c", f"printf '%s\\0' {command}"]
    done = subprocess.run(script, check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"})
    return done.stdout.decode().split("\0")[:-1]


# No word of a command can hold the character 0.
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
def test_a_shell_reads_any_node_back(node):
    words = read_by_shell(" ".join(redraw_command(DOCUMENT, node, "conv1")))
    assert words[3] == node
    assert words[4] == "--out"
    assert words[5].startswith("redrawn/") and "/" not in words[5].removeprefix("redrawn/")
    assert words[5] not in ("redrawn/", "redrawn/.", "redrawn/..")


HOSTILE = ["x; touch ran #", "sigma; touch ran", "a b", "$(touch ran)", "`touch ran`", "x\ntouch ran\n", "address",
           "out", "config", "local", "", "-", "arguments", "sigma=1"]  # fmt: skip


def test_only_settings_of_sampling_become_options_of_the_command():
    settings = dict.fromkeys(HOSTILE, 1) | {"sigma": 10.0}
    request = {"network": "lenet", "settings": settings, "profile": {"conv1": dict.fromkeys(HOSTILE, True)}}
    words = redraw_command({"request": request}, "conv1:0", "conv1")
    assert words == ("raygen sample", "--nodes conv1:0", "--out redrawn/conv1_0", "--network lenet", "--sigma 10.0")


def test_no_value_of_the_command_runs_anything_or_shows_a_secret():
    for value in (*HOSTILE, "a'b", "\x1b[201~touch ran\n"):
        request = {"network": value, "data": value, "settings": {"kernel": value, "seed": [value], "tilt": {value: 1}}}
        command = " ".join(redraw_command({"request": request, "about": {"weights": value}}, "conv1:0", "conv1"))
        assert command.isprintable()
        read = read_by_shell(command)
        assert read[read.index("--network") + 1] == read[read.index("--weights") + 1] == value
        assert json.loads(read[read.index("--tilt") + 1]) == {value: 1}
    about = {"weights": "s3://KEY:SECRET@bucket/w.pt", "reference_file": "s3://b/r?secret_key=SECRET"}
    assert "SECRET" not in " ".join(redraw_command({"about": about}, "conv1:0", "conv1"))


@given(st.dictionaries(st.sampled_from(["request", "about", "schema"]), json_values))
def test_no_request_is_too_strange_to_be_shown(document):
    facts(document)
    limits(document)
    redraw_command(document, "conv1:0", "conv1")
    assert network_name(document)


def test_limits_come_from_the_settings():
    assert limits(DOCUMENT) == Limits(1.05, 50)
    assert limits({"request": {}}) is None
