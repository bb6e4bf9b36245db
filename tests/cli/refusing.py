"""
Commands that are refused, run in this process, which keeps its own logging.
"""

import logging
import sys
import threading

import pytest

import protoserve.cli


@pytest.fixture
def refused(monkeypatch, capsys):
    """
    Give a function that runs a command, and gives the one line by which it is refused.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["protoserve", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            protoserve.cli.main()
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        line = said.rstrip()
        assert 2 == exited.value.code, line
        return line

    yield run
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
