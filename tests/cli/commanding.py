"""
Commands run in this process, against servers in threads.
"""

import contextlib
import io
import sys
import threading

import pytest

import protoserve.cli
from protoserve.server import ThreadingTCPServer, ThreadingUDPServer, TLSMixIn


@contextlib.contextmanager
def serving(app, kind="tcp", context=None):
    """
    Serve on a free port; give the URL.
    """

    class TLSServer(TLSMixIn, ThreadingTCPServer):
        ssl_context = context

    servers = {"tcp": ThreadingTCPServer, "udp": ThreadingUDPServer, "tls": TLSServer}
    server_class = servers[kind]
    with server_class(("127.0.0.1", 0), app.RequestHandlerClass) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{kind}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def command(monkeypatch, capsys):
    """
    Run ``protoserve``; give exit code, output and errors.
    """

    monkeypatch.delenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", raising=False)

    def run(*arguments, lines=None):
        monkeypatch.setattr(sys, "argv", ["protoserve", *map(str, arguments)])
        if lines is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as exited:
            protoserve.cli.main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return exited.value.code, shown.out, shown.err

    return run
