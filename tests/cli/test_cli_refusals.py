"""Bad input: one line that says what, where and what would be right; status 2; nothing written, nothing lost."""

import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from raygen.networks import NetworkSettings, load_network, save_checkpoint

Call = Callable[..., Any]

LOCAL = ("--weights", "random", "--local")
TINY = ("--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1")


def check_refused(said: Any, pattern: str) -> None:
    assert said.status == 2, said
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert re.search(pattern, lines[0]), lines[0]
    assert "Traceback" not in said.err
    assert len(said.out.splitlines()) <= 1, "the stage's name at most"


CASES = {
    "unknown network": (
        "nodes --network squeezenet1_2 --weights random",
        r"network squeezenet1_2: unknown network; did you mean squeezenet1_\d",
    ),
    "factory that is not there": (
        "nodes --network nowhere.at_all:make --weights random",
        r"network nowhere\.at_all:make: cannot import 'nowhere\.at_all' .*; give package\.module:factory",
    ),
    "arguments of another network": (
        "nodes --weights random --arguments {colours:3}",
        r"network lenet: cannot be built with .*colours.*; give arguments that its factory takes",
    ),
    "no weights": (
        "sample --out run --nodes conv1:0 --local",
        r"network lenet: no weights are given; give --weights FILE",
    ),
    "unknown layer": (
        "sample --out run --nodes conv3:1 --weights random --local",
        r"nodes conv3:1: unknown layer 'conv3'; did you mean conv2 or conv1\?",
    ),
    "channel out of range": (
        "sample --out run --nodes conv1:20 --weights random --local",
        r"nodes conv1:20: there is no channel 20; channels of conv1 are 0-19",
    ),
    "unknown class": (
        "sample --out run --nodes ip2:ostrich --weights random --local",
        r"nodes ip2:ostrich: unknown class 'ostrich'; known are 0, 1, 2",
    ),
    "position outside the map": (
        "sample --out run --nodes conv1:0@24,0 --weights random --local",
        r"nodes conv1:0@24,0: position 24,0 is outside .*; rows are 0-23, columns 0-23",
    ),
    "unknown data set": ("pretrain --out run --data digit", r"data: unknown data set 'digit'; did you mean digits"),
    "unknown data set of a reference": (
        "sample --out run --nodes conv1:0 --weights random --local --reference fitted --data mnits",
        r"data: unknown data set 'mnits'; did you mean mnist",
    ),
    "data set without its folder": (
        "pretrain --out run --data mnist",
        r"data_root: mnist needs a folder; give the folder that holds it",
    ),
    "weights that are not there": (
        "nodes --weights nowhere.safetensors",
        r"weights nowhere\.safetensors: there is no such file; give a whole \.safetensors file",
    ),
    "value below its range": (
        "sample --out run --nodes conv1:0 --weights random --local --chains 0",
        r"options: chains = 0 is not possible; input should be greater than or equal to 1",
    ),
    "value above its range": (
        "pretrain --out run --momentum 1",
        r"options: momentum = 1 is not possible; input should be less than 1",
    ),
    "value that is no number": (
        "pretrain --out run --epochs many",
        r"options: epochs = 'many' is not possible; input should be a valid integer",
    ),
    "value that is not finite": (
        "sample --out run --nodes conv1:0 --weights random --local --tilt inf",
        r"options: tilt = '?inf'? is not possible; input should be a finite number",
    ),
    "value that is no choice": (
        "sample --out run --nodes conv1:0 --weights random --local --reference pink",
        r"options: reference = 'pink' is not possible; input should be 'white', 'power-law' or 'fitted'",
    ),
    "values that do not go together": (
        "pretrain --out run --epochs 3 --generative-epochs 5",
        r"options: generative_epochs = 5 is not possible; give at most the 3 of epochs",
    ),
    "unknown option": (
        "sample --out run --nodes conv1:0 --weights random --local --chain 3",
        r"raygen sample: No such option '?--chain'?.*--chains.*; see raygen sample --help",
    ),
    "unknown command": ("sampel", r"raygen: No such command 'sampel'.*; see raygen --help"),
    "option without its value": ("gallery --out", r"raygen: .*--out.* requires an argument"),
    "stray argument": ("nodes here --weights random", r"raygen nodes: .*unexpected extra argument.*here"),
    "no output folder": ("sample --nodes conv1:0 --weights random --local", r"options: out is not given; .*--out"),
    "empty output folder": (
        "sample --out= --nodes conv1:0 --weights random --local",
        r"options: out = '' is not possible; string should have at least 1 character",
    ),
    "no nodes": ("sample --out run --weights random --local", r"options: nodes is not given; .*--nodes"),
    "gallery of a folder that is not there": (
        "gallery --out run",
        r"run: there is no run\.json; give a folder that raygen wrote",
    ),
    "storage of no kind": (
        "sample --out ftp2://host/run --nodes conv1:0 --weights random --local",
        r"ftp2://host/run: no storage behind this address .*; give a path or a URI",
    ),
    "tuning of two layers": (
        "tune --out run --nodes conv1:0,conv2:1 --weights random",
        r"nodes: nodes of conv1, conv2; tune the nodes of one layer",
    ),
    "tuning over an impossible value": (
        "tune --out run --nodes conv1:0 --weights random --step-sizes 0.1,-3",
        r"options: step_sizes\.1 = -3 is not possible; input should be greater than 0",
    ),
    "tuning over nothing": (
        "tune --out run --nodes conv1:0 --weights random --contrasts=",
        r"options: contrasts = .* is not possible; tuple should have at least 1 item",
    ),
    "configuration that is not there": (
        "sample --config nowhere.yaml",
        r"nowhere\.yaml: cannot be read \(FileNotFoundError\); give a YAML file",
    ),
    "profile that is not there": (
        "sample --out run --nodes conv1:0 --weights random --local --profile nowhere.yaml",
        r"nowhere\.yaml: cannot be read \(FileNotFoundError\)",
    ),
}


@pytest.mark.parametrize(("command", "pattern"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_refused_in_one_line_and_nothing_is_written(command: str, pattern: str, call: Call) -> None:
    check_refused(call(*command.split()), pattern)
    assert list(Path.cwd().iterdir()) == []


FILES = {
    "unknown key": ("nodes: conv1:0\nchians: 3\n", r"bad\.yaml: unknown setting 'chians'; did you mean chains"),
    "unknown key where a needed one is missing": (
        "node: conv1:0\nout: run\n",
        r"bad\.yaml: unknown setting 'node'; did you mean nodes",
    ),
    "value out of range": (
        "nodes: conv1:0\nout: run\nacceptance: 1.5\n",
        r"bad\.yaml: acceptance = 1\.5 is not possible; input should be less than 1",
    ),
    "value of another kind": ("nodes: [1, 2]\nout: run\n", r"bad\.yaml: nodes = \[1, 2\] is not possible; .*string"),
    "broken YAML": (
        "nodes: [conv1\nout: }",
        r"bad\.yaml: is no YAML \(.*line 2.*\); give lines of the form name: value",
    ),
    "a list": ("- conv1\n- conv2\n", r"bad\.yaml: holds a list; give lines of the form name: value"),
    "a code object": ("!!python/object/apply:os.mkdir [ran]", r"bad\.yaml: is no YAML \(.*python/object"),
    "nothing": ("", r"bad\.yaml: (nodes|out) is not given"),
}


@pytest.mark.parametrize(("text", "pattern"), FILES.values(), ids=FILES)
def test_what_is_wrong_in_a_configuration_file_is_refused_in_one_line_that_names_the_file(
    text: str, pattern: str, call: Call
) -> None:
    Path("bad.yaml").write_text(text)
    check_refused(call("sample", "--config", "bad.yaml"), pattern)
    assert [path.name for path in Path.cwd().iterdir()] == ["bad.yaml"]


def test_a_configuration_file_of_bytes_is_refused(call: Call) -> None:
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00")
    check_refused(call("sample", "--config", "bad.yaml"), r"bad\.yaml: cannot be read .*; give a YAML file")


class Trap:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("ran",)


def truncated(path: Path, whole: Path) -> None:
    path.write_bytes(whole.read_bytes()[:-5000])


def code(path: Path, whole: Path) -> None:
    del whole
    path.write_bytes(pickle.dumps({"conv1.weight": Trap()}))


def code_in_torchs_own_file(path: Path, whole: Path) -> None:
    del whole
    torch.save({"conv1.weight": Trap()}, path)


def no_tensors(path: Path, whole: Path) -> None:
    del whole
    torch.save({"conv1.weight": "heavy"}, path)


def text(path: Path, whole: Path) -> None:
    del whole
    path.write_text("weights")


def another_network(path: Path, whole: Path) -> None:
    del whole
    save_file({"features.0.weight": torch.zeros(3, 3)}, path)


WEIGHTS = {
    "truncated": ("w.safetensors", truncated, r"cannot be read as tensors"),
    "no tensors at all": ("w.safetensors", text, r"cannot be read as tensors"),
    "code": ("w.pt", code, r"cannot be read as tensors"),
    "code in torch's own file": ("w.pth", code_in_torchs_own_file, r"cannot be read as tensors"),
    "something else than tensors": ("w.pt", no_tensors, r"entry 'conv1\.weight' is a str, not a tensor"),
    "another network's": ("w.safetensors", another_network, r"does not fit the network; 8 missing: conv1\.weight"),
    "of an unknown kind": ("w.npz", text, r"unknown kind of file '\.npz'"),
}


@pytest.mark.parametrize(("name", "make", "pattern"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_do_are_refused_and_no_code_of_theirs_runs(
    name: str, make: Callable[[Path, Path], None], pattern: str, call: Call, lenet_file: Path
) -> None:
    make(Path(name), lenet_file)
    said = call("sample", "--out", "run", "--nodes", "conv1:0", "--local", "--weights", name)
    check_refused(said, rf"weights {re.escape(name)}: {pattern}.*; give ")
    assert [path.name for path in Path.cwd().iterdir()] == [name]


def test_the_trap_of_these_tests_would_have_sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap()))
    assert Path("ran").is_dir()


def test_a_checkpoint_of_another_network_than_asked_for_is_refused(call: Call, lenet_file: Path) -> None:
    said = call("nodes", "--network", "resnet18", "--weights", lenet_file)
    check_refused(said, r"is a checkpoint with network lenet, asked for was resnet18; leave network out")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_another_run_is_refused_by_the_difference_and_kept(call: Call) -> None:
    sample = ("sample", "--out", "run", *LOCAL, *TINY)
    assert call(*sample, "--nodes", "conv1:0").status == 0
    before = contents(Path("run"))
    check_refused(
        call(*sample, "--nodes", "conv1:0", "--sigma", "3"),
        r"run: it holds another run: there settings\.sigma is 10\.0, now 3\.0; ask for the same again, or give another",
    )
    check_refused(call(*sample, "--nodes", "conv1:1"), r'there nodes is "conv1:0", now "conv1:1"')
    check_refused(call("pretrain", "--out", "run"), r"run: the folder holds \S+, but no pretrain\.json")
    assert contents(Path("run")) == before


@pytest.mark.parametrize("command", ["sample --nodes conv1:0 --weights random --local", "pretrain"])
def test_a_folder_with_a_strangers_files_is_refused_and_kept(command: str, call: Call) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("precious")
    check_refused(
        call(*command.split(), "--out", "mine"), r"mine: the folder holds thesis\.tex, but no .*; give an empty"
    )
    assert contents(Path.cwd()) == {Path.cwd() / "mine/thesis.tex": b"precious"}
    check_refused(call("gallery", "--out", "mine"), r"mine: there is no run\.json; give a folder that raygen wrote")


@pytest.mark.parametrize("command", ["sample --nodes conv1:0 --weights random --local", "pretrain"])
def test_a_place_that_cannot_be_written_is_refused(command: str, call: Call) -> None:
    # Below a file nobody can write, not even root.
    Path("file").write_text("content")
    check_refused(
        call(*command.split(), "--out", "file/run"),
        r"file/run: .* cannot be written .*; give a folder that can be written",
    )
    assert contents(Path.cwd()) == {Path.cwd() / "file": b"content"}


def test_a_damaged_run_is_refused(call: Call) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text('{"schema": 1, "requ')
    check_refused(call("gallery", "--out", "run"), r"run: run\.json is damaged; restore it, or begin anew elsewhere")
    check_refused(call("sample", "--out", "run", "--nodes", "conv1:0", *LOCAL), r"run: run\.json is damaged")


def profile(weights_hash: str, **layers: object) -> str:
    return yaml.safe_dump({"network": "lenet", "weights_hash": weights_hash, "layers": layers})


def test_a_profile_of_other_weights_is_refused(call: Call, lenet_file: Path) -> None:
    Path("profile.yaml").write_text(profile("0" * 64, conv1={"step_size": 0.1}))
    said = call(
        "sample", "--out", "run", "--nodes", "conv1:0", "--weights", lenet_file, "--local", "--profile", "profile.yaml"
    )
    check_refused(said, r"profile\.yaml: is a profile of other weights; give the weights that it was found with")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ({"conv1": {"step_size": -1}}, r"profile\.yaml, layer conv1: step_size = -1 is not possible; .*greater than 0"),
        ({"conv1": {"seed": 1}}, r"profile\.yaml: is no profile; give the profile\.yaml that raygen tune wrote"),
        ({"conv1": 3}, r"profile\.yaml: is no profile"),
    ],
)
def test_a_profile_with_wrong_values_is_refused(layers: dict[str, object], pattern: str, call: Call) -> None:
    weights_hash = load_network(NetworkSettings(weights="random")).weights_hash
    Path("profile.yaml").write_text(profile(weights_hash, **layers))
    said = call("sample", "--out", "run", "--nodes", "conv1:0", *LOCAL, "--profile", "profile.yaml")
    check_refused(said, pattern)
    assert not Path("run").exists()


def test_a_checkpoint_whose_description_is_damaged_is_refused(call: Call) -> None:
    module = load_network(NetworkSettings(weights="random")).module
    save_checkpoint(Path("w.safetensors"), module, {"network": "lenet"})
    check_refused(
        call("nodes", "--weights", "w.safetensors"),
        r"weights w\.safetensors: input_shape is not given; give a checkpoint that raygen wrote",
    )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "ConnectionRefusedError"),
        pytest.param("[::1]:1", "ConnectionRefusedError", marks=pytest.mark.slow),
        pytest.param("nonsense", "ValueError", marks=pytest.mark.slow),
    ],
)
def test_an_address_of_no_cluster_is_refused(address: str, reason: str, launcher: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["sample", "--out", out, "--nodes", "conv1:0", "--weights", "random", "--address", address]
    done = launcher.run(sys.executable, "-m", "raygen", *command)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        rf"raygen: address: no Ray cluster answers at {re.escape(address)} \({reason}: .+\); give a running.*\n",
        done.stderr,
    )


@pytest.mark.parametrize("address", ["ray://nowhere", pytest.param("ray://nowhere:", marks=pytest.mark.slow)])
def test_an_address_without_a_port_is_refused_before_ray_tries_it(address: str, launcher: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["sample", "--out", out, "--nodes", "conv1:0", "--weights", "random", "--address", address]
    done = launcher.run(sys.executable, "-m", "raygen", *command)
    line = f"raygen: address: {address} lacks host or port; give both, as in ray://head:10001\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_refused_in_one_line(launcher: Any, tmp_path: Path) -> None:
    # Longer than the path of a socket may be.
    scratch = tmp_path / ("long" * 30)
    scratch.mkdir()
    command = ["sample", "--out", tmp_path / "run", "--nodes", "conv1:0", "--weights", "random"]
    done = launcher.run(sys.executable, "-m", "raygen", *command, RAY_TMPDIR=str(scratch))
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"raygen: address: Ray does not start on this machine \(OSError: .+\); correct that.*\n", done.stderr
    )


def test_the_real_program_says_one_line_and_ends_with_2(launcher: Any, tmp_path: Path) -> None:
    done = launcher.run(
        sys.executable, "-m", "raygen", "sample", "--out", tmp_path / "run", "--nodes", "conv9:1", *LOCAL
    )
    assert done.returncode == 2
    assert re.fullmatch(r"raygen: nodes conv9:1: unknown layer 'conv9'; did you mean conv\d or conv\d\?\n", done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nodes", "--weights", "a" * 300], r"File name too long"),
        (["nodes", "--config", "a" * 300], r"cannot be read \(OSError\)"),
        (["nodes", "--weights", "random", "--channels", "9" * 400], r"channels holds a number of more than 64 bits"),
        (["nodes", "--weights", "random", "--config", "/dev/zero"], r"/dev/zero: cannot be read \(it is larger than"),
    ],
)
def test_what_no_system_or_library_takes_is_one_line(call, arguments, message):
    said = call(*arguments)
    assert said.status == 2
    assert re.search(message, said.err)
    assert said.err.count("\n") == 1
