"""The reference service as a process of its own, which can be killed and started again."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.command_runs import ROOT

SERVICE = ROOT / "examples" / "service"
NEEDED = ("fastapi", "uvicorn")
START_S = 600  # how long it may take to start, beside other work


class Service:
    """The service on a bundle, at a port of its own; `start` waits until it answers."""

    def __init__(self, bundle: Path, log: Path, *flags: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{self.port}", log
        words = [bundle, f"--port={self.port}", "--threads=1", *flags]
        self.command = [sys.executable, SERVICE / "serve.py", *words]
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again at the same port."""
        with self.log.open("w") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file)
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the service does not answer")

    def kill(self) -> None:
        """SIGKILL, whatever it does."""
        self.process.kill()
        self.process.wait()

    def posted(self, content: bytes) -> tuple[int, dict]:
        """Status and answer of a request."""
        request = urllib.request.Request(f"{self.address}/recommend", content)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
