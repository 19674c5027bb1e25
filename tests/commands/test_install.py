"""The repository is cloned and run; it is no package, and says so."""

from tests.support.command_runs import ROOT, command


def test_pip_install_is_refused_with_what_to_do_and_spreads_nothing(tmp_path):
    flags = ("--no-index", "--no-deps", "--disable-pip-version-check", f"--target={tmp_path}")
    done = command("-m", "pip", "install", *flags, ROOT, check=False)
    assert done.returncode == 1
    line = "SyNCRec is not an installable package: clone the repository and run bash train.sh"
    assert line in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
