"""A tiny log, two runs on it and their bundles, made once for all tests of this folder."""

import pytest

import export
from src.serving import api
from tests.support.command_runs import make_data, train

RUNS = {
    "both": (
        "--mode=syncrec", "--time_embedding=interval", "--target_domain_query",
        "--joint_transitions", "--no-repeat",
    ),
    "separate": ("--mode=sdsr_separate",),
}  # fmt: skip


@pytest.fixture(scope="session")
def log_data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="session")
def exported(log_data, tmp_path_factory):
    """{name: (run folder, bundle)}"""
    runs, bundles = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("bundles")
    folders = {}
    for name, flags in RUNS.items():
        run = train(log_data, runs, name, "--lr=0.02", *flags)
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
