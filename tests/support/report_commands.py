"""`report.py` run in this process: what it prints, how it refuses, the cells of its tables."""

import report
from tests.support.command_runs import failing


def run_report(monkeypatch, capsys, *arguments):
    """What `python report.py ARGUMENTS …` prints."""
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
    report.main()
    return capsys.readouterr().out


def refusal(monkeypatch, capsys, folder, *arguments):
    """The one line of a command that must fail, with exit status 2 and nothing written."""
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
    return failing(capsys, folder, report.main)


def cells_of(text):
    """The cells of every table row in a Markdown text, the rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
