"""A storage that only ever answers "slow down": tried some times, then one line; nothing waits for ever."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

BODY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


class Busy(BaseHTTPRequestHandler):
    """An S3 server that refuses everything for now."""

    asked = 0

    def answer(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(503)
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    def log_message(self, *arguments: Any) -> None:
        pass


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(Busy, f"do_{_method}", Busy.answer)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["status"], ["sample", "--weights", "random", "--nodes", "conv1:0", "--local"]])
def test_a_storage_that_is_busy_for_ever_ends_a_command_in_one_line(launcher: Any, command: list[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        folder = f"s3://bucket/run?endpoint_override={address}&scheme=http&region=us-east-1"
        # Half a minute, as the manual says: the library tries for 8 s, and raygen four times.
        done = launcher.run(
            sys.executable, "-m", "raygen", *command, "--out", folder,
            AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_EC2_METADATA_DISABLED="true", timeout=200,
        )  # fmt: skip
        server.shutdown()
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "s3://bucket/run: " in done.stderr
    assert "see that the storage answers, and run the same command again" in done.stderr
    assert Busy.asked >= 4
