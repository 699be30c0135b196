"""``raygen reference``, and what ``raygen sample`` makes of its file; log Z and superchains from the command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raygen.data import digits, hash_images
from raygen.store import Run
from raygen.tilting import load_reference

Call = Callable[..., Any]

TINY = ("--chains", "4", "--draws", "4", "--thin", "1", "--warm-up", "2", "--steps", "1")
SAMPLE = ("sample", "--weights", "random", "--local", *TINY)


def table(folder: str) -> pa.Table:
    run = Run.open(folder)
    return pa.concat_tables([run.samples(unit) for unit in run.plan])


def refused(said: Any, pattern: str) -> None:
    assert said.status == 2, said
    assert re.fullmatch(pattern, said.err.strip()), said.err


def test_a_saved_reference_gives_the_run_that_the_fitted_one_gives(call: Call) -> None:
    said = call("reference", "--data", "digits", "--out", "digits.safetensors")
    assert (said.status, said.err) == (0, "")
    train = digits()[0]
    assert said.out.splitlines() == [
        f"reference: 1x28x28, fitted to {len(train):,} images of digits",
        "file: digits.safetensors (use it with raygen sample --reference-file digits.safetensors)",
    ]
    _, provenance = load_reference("digits.safetensors")
    assert provenance is not None
    assert (provenance.data_hash, provenance.images) == (hash_images(train), len(train))
    fitted = (*SAMPLE, "--nodes", "ip2:1 ip2:3", "--reference", "fitted", "--data", "digits", "--out", "fitted")
    saved = (*SAMPLE, "--nodes", "ip2:1 ip2:3", "--reference-file", "digits.safetensors", "--out", "saved")
    assert (call(*fitted).status, call(*saved).status) == (0, 0)
    assert table("fitted").equals(table("saved"))
    again = call(*saved)
    assert again.status == 0 and "1 of 1 units were there already" in again.out
    assert call("gallery", "--out", "saved").status == 0
    page = next(Path("saved/gallery").rglob("1.html")).read_text()
    assert "--reference-file digits.safetensors" in page


def test_a_reference_of_a_receptive_field_serves_its_layer_and_no_larger_one(call: Call) -> None:
    made = call("reference", "--nodes", "conv1:*", "--out", "conv1.safetensors", "--limit", "50")
    assert made.out.startswith("reference: 1x5x5, fitted to 20,000 patches of images of digits\n")
    use = (*SAMPLE, "--reference-file", "conv1.safetensors")
    assert call(*use, "--nodes", "conv1:0", "--out", "run").status == 0
    refused(
        call(*use, "--nodes", "conv1:0 ip2:3", "--out", "other"),
        r"raygen: conv1.safetensors: a reference of 1x5x5 for node ip2:3, whose images are 1x28x28; "
        r"make one of that size, or larger, with raygen reference",
    )
    assert not Path("other").exists()


def test_another_reference_in_the_same_place_is_refused_by_its_hash(call: Call) -> None:
    for name, scale in (("one", "1"), ("two", "2")):
        assert call("reference", "--limit", "50", "--scale", scale, "--out", f"{name}.safetensors").status == 0
    run = (*SAMPLE, "--nodes", "ip2:1", "--out", "run", "--reference-file")
    assert call(*run, "one.safetensors").status == 0
    before = Path("run/run.json").read_bytes()
    refused(
        call(*run, "two.safetensors"),
        r'raygen: run: it holds another run: there reference_hash is "\w{64}", now "\w{64}"; ask for the same .*',
    )
    assert Path("run/run.json").read_bytes() == before
    Path("one.safetensors").rename("moved.safetensors")
    assert call(*run, "moved.safetensors").status == 0


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (("--out", "nowhere/q.safetensors"), r"raygen: nowhere/q.safetensors: cannot be written .*; give a file in .*"),
        (
            ("--out", "q", "--nodes", "conv1:0 conv2:0"),
            r"raygen: nodes: nodes of conv1, conv2; give the nodes of one.*",
        ),
        (
            ("--out", "q", "--nodes", "conv1:0@1,1"),
            r"raygen: nodes: nodes of conv1; give .* without positions, @mean or @relu",
        ),
        (("--out", "q", "--nodes", "conv9:0"), r"raygen: nodes conv9:0: unknown layer 'conv9'; did you mean .*"),
        (("--out", "q", "--data", "mnist"), r"raygen: data_root: mnist needs a folder; give the folder that holds it"),
        (("--out", "q", "--channels", "3"), r"raygen: .*; .*"),
        (("--out", "q", "--scale", "0"), r"raygen: options: scale = 0 is not possible; .*"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_reference_that_cannot_be_made_is_refused_in_one_line(
    options: tuple[str, ...], pattern: str, call: Call
) -> None:
    refused(call("reference", *options), pattern)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no such file"),
        (b"", r"is no reference that can be read \(.*\)"),
        (b"no reference at all", r"is no reference that can be read \(.*\)"),
    ],
)
def test_a_file_that_is_no_reference_is_refused_and_nothing_is_written(
    content: bytes | None, what: str, call: Call
) -> None:
    if content is not None:
        Path("q.safetensors").write_bytes(content)
    refused(
        call(*SAMPLE, "--nodes", "ip2:1", "--out", "run", "--reference-file", "q.safetensors"),
        rf"raygen: q.safetensors: {what}; give a file that raygen reference wrote",
    )
    assert not Path("run").exists()


def test_log_z_and_nested_r_hat_are_columns_that_are_asked_for(call: Call) -> None:
    more = ("--nodes", "conv1:0-1", "--sigma", "0.3", "--log-z", "--log-z-rungs", "4", "--superchains", "2")
    assert call(*SAMPLE, *more, "--out", "run").status == 0
    asked = table("run")
    for name in ("log_z", "log_z_error", "log_z_ess", "log_z_gradients", "r_hat_nested"):
        assert asked[name].null_count == 0, name
    settings = json.loads(Path("run/run.json").read_text())["request"]["settings"]
    assert (settings["log_z"], settings["log_z_rungs"], settings["superchains"]) == (True, 4, 2)
    assert call("gallery", "--out", "run").status == 0
    page = next(Path("run/gallery").rglob("0.html")).read_text()
    assert "<dt>log Z</dt>" in page and "<dt>nested R-hat</dt>" in page


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (
            ("--superchains", "3"),
            r"raygen: superchains: superchains = 3 for 4 chains; give a divisor of 4 of at least 2",
        ),
        (("--superchains", "1"), r"raygen: options: superchains = 1 is not possible; .*"),
        (("--log-z", "--no-adjusted"), r"raygen: log_z: log_z with adjusted = false, .*; leave one of them out"),
        (("--log-z", "--log-z-rungs", "0"), r"raygen: options: log_z_rungs = 0 is not possible; .*"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(options: tuple[str, ...], pattern: str, call: Call) -> None:
    refused(call(*SAMPLE, "--nodes", "ip2:1", "--out", "run", *options), pattern)
    assert not Path("run").exists()
