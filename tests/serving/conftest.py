"""Three runs, their bundles and services, made once for all tests of this folder."""

import importlib.util

import pytest

import export
from src.serving import api
from tests.support.services import NEEDED, Service

RUNS = {
    "both": (
        "--mode=syncrec", "--time_embedding=interval", "--target_domain_query",
        "--joint_transitions", "--no-repeat",
    ),
    "separate": ("--mode=sdsr_separate", "--no-trend"),
    "both_at_once": ("--model=abxi",),  # its queries read both views
}  # fmt: skip


@pytest.fixture(scope="session")
def runs(finished_run):
    """{name: run folder}"""
    return {name: finished_run(name, "--lr=0.02", *flags) for name, flags in RUNS.items()}


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
    """{name: (run folder, bundle)}"""
    folders, bundles = {}, tmp_path_factory.mktemp("bundles")
    for name, run in runs.items():
        export.main([str(run), f"--out={bundles / name}", "--device=cpu", "--format=pt2"])
        folders[name] = run, bundles / name
    return folders


@pytest.fixture(scope="session")
def opened(exported):
    """{name: (run, bundle)}, opened."""
    return {
        name: (api.open_run(run, blend=True), api.open_bundle(bundle))
        for name, (run, bundle) in exported.items()
    }


@pytest.fixture(scope="module")
def start(exported, tmp_path_factory):
    """start(*flags): a service on the bundle `both`, which ends with the module."""
    if not all(map(importlib.util.find_spec, NEEDED)):
        pytest.skip("needs pip install -r examples/service/requirements.txt")
    running = []

    def started(*flags: str) -> Service:
        running.append(Service(exported["both"][1], tmp_path_factory.mktemp("log") / "log", *flags))
        return running[-1]

    yield started
    for service in running:
        service.kill()
