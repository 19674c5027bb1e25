"""Load for the reference service: latency and throughput, batched and one at a time.

    python examples/service/load.py bundle

Sends the same requests from this process to a service with its default batches, and to one that
scores each request alone (--batch 1): as many in flight, and one at a time.
"""

import http.client
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import numpy as np
import pyarrow.parquet as pq

from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command

SERVE = Path(__file__).with_name("serve.py")
DAY = 86_400
START_S = 600  # how long the service may take to start


def contents_of(bundle: Path, count: int, longest: int) -> list[bytes]:
    """Bodies of requests: 1 to `longest` events of items drawn at random."""
    items = pq.read_table(bundle / "items.parquet", columns=["item_id", "domain"]).to_pylist()
    rng = np.random.default_rng(0)
    bodies = []
    for length in rng.integers(1, longest + 1, count):
        drawn = [items[number] for number in rng.integers(0, len(items), length)]
        events = [row | {"time": DAY * place} for place, row in enumerate(drawn)]
        bodies.append(json.dumps({"events": events, "k": 10}).encode())
    return bodies


@contextmanager
def service(bundle: Path, flags: list[str]) -> Iterator[int]:
    """The port of a service that runs until the block ends. UserError where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVE, bundle, f"--port={port}", *flags])
    try:
        for _ in range(START_S * 5):
            if process.poll() is not None:
                raise UserError(f"the service on {bundle} did not start")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def seconds_of(port: int, contents: list[bytes], in_flight: int) -> tuple[list[float], float]:
    """How long each request took, with so many in flight, and how long all of them did."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for content in contents:
        waiting.put(content)
    taken: list[float] = []

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            try:
                content = waiting.get_nowait()
            except queue.Empty:
                return
            start = time.perf_counter()
            connection.request("POST", "/recommend", content)
            response = connection.getresponse()
            response.read()
            taken.append(time.perf_counter() - start)
            if response.status != 200:
                raise RuntimeError(f"the service answered {response.status}")

    threads = [threading.Thread(target=send) for _ in range(in_flight)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(taken) < len(contents):
        raise UserError(f"{len(contents) - len(taken)} of {len(contents)} requests got no answer")
    return taken, time.perf_counter() - start


def measured(port: int, contents: list[bytes], in_flight: int, name: str) -> float:
    """Requests per second; prints them and the latency."""
    seconds_of(port, contents[:100], in_flight)  # what the first calls prepare
    taken, total = seconds_of(port, contents, in_flight)
    p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1000
    rate = len(contents) / total
    print(
        f"{name}: {len(contents)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{rate:.1f} requests/s",
        flush=True,
    )
    return rate


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a line for each way to serve, and what batches are worth."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("bundle", type=Path, help="folder of export.py")
    parser.add_argument("--requests", type=int, default=2000, help="requests to send")
    parser.add_argument("--in_flight", type=int, default=32, help="requests at a time")
    parser.add_argument("--events", type=int, default=50, help="events of a request, at most")
    parser.add_argument("--threads", type=int, default=0, help="of torch; default: all cores")
    given = parser.parse_args(arguments)
    contents = contents_of(given.bundle, given.requests, given.events)
    rates: dict[str, float] = {}
    for words, in_flight in (([], {given.in_flight}), (["--batch=1"], {given.in_flight, 1})):
        with service(given.bundle, [*words, f"--threads={given.threads}"]) as port:
            for number in sorted(in_flight, reverse=True):
                name = ", ".join([f"{number} in flight", *words])
                rates[name] = measured(port, contents, number, name)
    first, *others = rates
    for name in others:
        print(f"{first} / {name}: {rates[first] / rates[name]:.1f} × the throughput")


if __name__ == "__main__":
    run_command(main)
