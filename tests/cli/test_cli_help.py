"""Help that shows every setting with its default, and configuration by file and by option."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raygen.cli.main import cli
from raygen.config import (
    DemoConfig,
    GalleryConfig,
    LookConfig,
    NodesConfig,
    PipelineConfig,
    PretrainConfig,
    ReferenceConfig,
    SampleConfig,
    StatusConfig,
    TuneConfig,
    VerifyConfig,
)
from raygen.settings import Group, Settings

Call = Callable[..., Any]
CONFIGS = {
    "demo": DemoConfig,
    "pipeline": PipelineConfig,
    "pretrain": PretrainConfig,
    "nodes": NodesConfig,
    "reference": ReferenceConfig,
    "tune": TuneConfig,
    "look": LookConfig,
    "sample": SampleConfig,
    "gallery": GalleryConfig,
    "status": StatusConfig,
    "verify": VerifyConfig,
}
TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1")


def test_the_overview_names_every_command(call: Call) -> None:
    said = call("--help")
    assert said.status == 0
    assert all(re.search(rf"^  {command}  ", said.out, re.MULTILINE) for command in CONFIGS)


def test_no_command_shows_the_overview_and_ends_with_2(call: Call) -> None:
    said = call()
    assert said.status == 2
    assert said.err.startswith("Usage: raygen ")
    assert said.err.strip() == call("--help").out.strip()


def test_the_version_is_shown(call: Call) -> None:
    assert re.fullmatch(r"raygen, version \d+\.\d+\.\d+\n", call("--version").out)


@pytest.mark.parametrize(("command", "kind"), CONFIGS.items(), ids=CONFIGS)
def test_help_shows_every_setting_with_its_description_and_its_default(
    command: str, kind: type[Settings], call: Call
) -> None:
    said = call(command, "--help")
    assert said.status == 0
    text = " ".join(said.out.split())
    assert "--config FILE" in text
    for name, field in kind.model_fields.items():
        flag = "--" + name.replace("_", "-")
        # From this option to the next one, which stands at the beginning of a line.
        entry = re.search(rf"^  {flag}[ /].*?(?=^  -|^\S|\Z)", said.out, re.MULTILINE | re.DOTALL)
        assert entry is not None, flag
        shown = " ".join(entry[0].split())
        assert field.description is not None
        assert " ".join(field.description.split()) in shown
        assert f"[{default_of(field)}]" in shown


def default_of(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    special = {None: "not set", True: "default: on", False: "default: off"}
    for key, text in special.items():
        if value is key:
            return text
    if isinstance(value, tuple):
        return "default: " + ",".join(map(str, value))
    return f"default: {value}" if value != {} else "default: none"


def test_every_setting_is_described_in_a_short_phrase() -> None:
    for kind in CONFIGS.values():
        for name, field in kind.model_fields.items():
            assert field.description, name
            assert len(field.description) < 120, name
            assert not field.description.endswith("."), name


def asked(folder: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(Path(folder, "run.json").read_text())["request"]
    return request


def test_options_override_the_file_and_the_file_overrides_the_defaults(call: Call) -> None:
    Path("sample.yaml").write_text(
        "nodes: conv1:0\nout: from-file\nweights: random\nlocal: true\nsigma: 3\nseed: 8\n"
        "chains: 2\ndraws: 2\nthin: 1\nwarm_up: 2\nsteps: 1\n"
    )
    assert call("sample", "--config", "sample.yaml").status == 0
    assert call("sample", "--config", "sample.yaml", "--out", "from-option", "--sigma", "5", "--no-crop").status == 0
    first, second = asked("from-file")["settings"], asked("from-option")["settings"]
    assert (first["sigma"], first["crop"], first["seed"], first["acceptance"]) == (3.0, True, 8, 0.65)
    assert {name for name in first if first[name] != second[name]} == {"sigma", "crop"}
    assert (second["sigma"], second["crop"]) == (5.0, False)


def test_numbers_lists_and_mappings_are_read_as_yaml_and_text_stays_text(call: Call) -> None:
    said = call(
        "nodes", "--weights", "random", "--arguments", "{classes: 7}", "--mean", "0.5", "--std", "[0.25]", "--json"
    )
    assert said.status == 0
    assert json.loads(said.out.splitlines()[-1])["channels"] == 7
    # A folder called 1e3 is no number.
    assert call("sample", "--out", "1e3", "--nodes", "conv1:0", "--weights", "random", "--local", *TINY).status == 0
    assert Path("1e3/run.json").exists()


def test_nodes_prints_one_json_object_a_line_and_a_table_for_people(call: Call) -> None:
    said = call("nodes", "--weights", "random", "--json")
    assert (said.status, said.err) == (0, "")
    layers = [json.loads(line) for line in said.out.splitlines()]
    channels = {layer["name"]: layer["channels"] for layer in layers}
    assert channels.items() >= {"conv1": 20, "conv2": 50, "ip1": 500, "ip2": 10}.items()
    assert [layer["name"] for layer in layers if layer["is_classes"]] == ["ip2"]
    table = call("nodes", "--weights", "random").out.splitlines()
    assert table[0].split()[:3] == ["layer", "kind", "channels"]
    assert [line.split()[0] for line in table[1:]] == list(channels)


def test_sample_says_what_it_made_and_a_second_time_that_it_was_there(call: Call) -> None:
    command = ("sample", "--out", "run", "--nodes", "conv1:0-1", "--weights", "random", "--local", *TINY)
    first = call(*command)
    assert first.status == 0
    assert "8 samples of 2 nodes" in first.out
    assert "raygen gallery --out run" in first.out
    again = call(*command)
    assert again.status == 0
    assert "1 of 1 units were there already" in again.out
    shown = call("gallery", "--out", "run")
    assert shown.status == 0
    assert "8 pictures of 2 nodes in 1 layer\n" in shown.out
    assert shown.out.splitlines()[-1] == f"open {Path('run/gallery/index.html').absolute().as_uri()}"
    assert Path("run/gallery/index.html").exists()


def test_look_shows_modes_says_that_they_are_no_samples_and_makes_the_pages(call: Call) -> None:
    command = ("look", "--out", "run", "--nodes", "ip2:3 conv1:0-1", "--weights", "random", "--local")
    first = call(*command, "--mode-steps", "20", "--chains", "2")
    assert (first.status, first.err) == (0, "")
    assert "look: 6 modes of 3 nodes in " in first.out and "120 gradients, modes are no samples" in first.out
    assert "converged" not in first.out and "contrast 4, mode-steps 20, chains 2;" in first.out
    assert "gallery: 6 pictures of 3 nodes in 2 layers" in first.out
    pages = [Path("run/gallery", name).read_text() for name in ("index.html", "ip2/index.html", "ip2/3.html")]
    assert "6 modes from 3 nodes" in pages[0] and "not a sample" in pages[0]
    assert "peaks of the distribution, no samples" in pages[1]
    assert "Modes, not samples." in pages[2] and "--mode-steps 20" in pages[2]
    assert not any(word in page for page in pages for word in ("R-hat", "ESS", "Divergences", "converged</span>"))
    status = call("status", "run")
    assert status.status == 0 and " modes/s" in status.out and "converged" not in status.out
    again = call(*command, "--mode-steps", "20", "--chains", "2")
    assert again.status == 0 and "look: 2 of 2 units were there already" in again.out
    assert asked("run")["settings"]["mode_steps"] == 20
    assert call("look", "--out", "other", "--nodes", "ip2:3", "--weights", "random", "--local").status == 0
    assert (asked("other")["settings"]["mode_steps"], asked("other")["settings"]["draws"]) == (128, 1)


def test_a_run_of_modes_is_not_continued_as_one_of_samples(call: Call) -> None:
    command = ("--out", "run", "--nodes", "ip2:3", "--weights", "random", "--local", "--chains", "2")
    assert call("look", *command, "--mode-steps", "3").status == 0
    said = call("sample", *command)
    assert said.status == 2 and len(said.err.splitlines()) == 1
    said = call("tune", "--out", "tuned", "--nodes", "ip2:3", "--weights", "random", "--mode-steps", "3")
    assert (said.status, said.err) == (
        2,
        "raygen: mode_steps: tune with mode_steps, which moves no chains; leave it out\n",
    )


def test_the_overview_says_of_each_command_what_its_own_help_begins_with() -> None:
    for name, lazy in cli.lazy_commands.items():
        command = lazy.load()
        assert (command.name, (command.help or "").splitlines()[0]) == (name, lazy.help)


@pytest.mark.parametrize(("command", "kind"), CONFIGS.items(), ids=CONFIGS)
def test_help_shows_every_setting_in_its_group_and_what_is_required_first(
    command: str, kind: type[Settings], call: Call
) -> None:
    shown: dict[str, str] = {}
    title = ""
    for line in call(command, "--help").out.splitlines():
        assert len(line) <= 100
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
        elif found := re.match(r"  --([a-z-]+)", line):
            shown[found[1].replace("-", "_")] = title
    groups = {name: group.value for name, group in kind.groups().items()}
    if set(groups.values()) == {Group.MAIN.value}:
        groups = dict.fromkeys(groups, "Options")
    assert {name: title for name, title in shown.items() if name in groups} == groups
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert set(list(shown)[: len(required)]) == set(required)


def test_the_main_options_are_a_handful_and_every_group_is_used() -> None:
    groups = {name: kind.groups() for name, kind in CONFIGS.items()}
    assert all(list(each.values()).count(Group.MAIN) <= 13 for name, each in groups.items() if name != "pipeline")
    assert {group for each in groups.values() for group in each.values()} == set(Group)
