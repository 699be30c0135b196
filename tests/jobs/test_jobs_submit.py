"""A real `ray job submit` of a whole pipeline to a real head on loopback."""

import json
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from committed import committed

from raygen.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Head:
    """A head that runs: where its job server and it itself are, and what who submits has in the environment."""

    address: str
    cluster: str
    launcher: Any
    env: dict[str, str]

    def answers(self) -> bool:
        request = urllib.request.Request(f"{self.address}/api/jobs/")
        request.add_header("Authorization", f"Bearer {self.env['RAY_AUTH_TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def head(launcher_at: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    launcher = launcher_at(tmp_path_factory.mktemp("head"))
    # Ray asks for a token half of the time where the mode is not said.
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, dashboard, agent, metrics, client = free_ports(5)
    process = launcher.start(
        *RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", f"--temp-dir={launcher.scratch}",
        "--disable-usage-stats",
        **env,
    )  # fmt: skip
    made = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", launcher, env)
    deadline = time.monotonic() + 120
    while not made.answers():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the job server does not answer"
        time.sleep(0.2)
    yield made
    launcher.end()  # not `ray stop`, which ends every Ray of this machine
    process.communicate()


def submit(head: Head, *command: str | Path) -> Any:
    options = ("job", "submit", "--address", head.address, "--working-dir", ROOT)
    return head.launcher.run(*RAY, *options, "--", *command, timeout=400, **head.env)


def test_a_submitted_pipeline_ends_with_its_gallery(head: Head, tmp_path: Path) -> None:
    place = tmp_path / "run"
    config = tmp_path / "pipeline.yaml"
    config.write_text(
        json.dumps(
            {
                "out": str(place), "limit": 100, "epochs": 2, "generative_epochs": 1, "workers": 1,
                "nodes": "conv1:0-3 ip2:3", "chains": 2, "draws": 2, "thin": 1, "warm_up": 3, "steps": 2,
                "batch": 4, "actors": 2,
            }
        )
    )  # fmt: skip
    done = submit(head, sys.executable, "jobs/pipeline.py", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "gallery" / "index.html").exists()
    run = Run.open(str(place))
    assert committed(run) == {unit.name for unit in run.plan}
    assert sum(run.samples(unit).num_rows for unit in run.plan) == 5 * 2 * 2


def test_a_submitted_job_with_bad_input_fails_and_says_why(head: Head, tmp_path: Path) -> None:
    done = submit(
        head, sys.executable, "jobs/sample.py", "--out", tmp_path / "run", "--nodes", "conv9:1", "--weights", "random"
    )
    assert done.returncode == 1, "what a job's status other than 0 becomes"
    assert "nodes conv9:1: unknown layer 'conv9'" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def test_a_command_joins_a_head_on_loopback(head: Head, tmp_path: Path) -> None:
    command = ["sample", "--out", tmp_path / "run", "--nodes", "conv1:0-1", "--weights", "random", "--batch", "2"]
    command += ["--chains", "2", "--draws", "2", "--thin", "1", "--warm-up", "2", "--steps", "1"]
    # As on a machine where nobody set the switch that keeps Ray to loopback.
    env = head.env | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": None}
    done = head.launcher.run(sys.executable, "-m", "raygen", *command, "--address", head.cluster, **env)
    assert done.returncode == 0, done.stderr
    assert len(committed(Run.open(str(tmp_path / "run")))) == 2
