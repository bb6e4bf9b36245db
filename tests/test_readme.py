"""
The README's code, run as it is pasted.
"""

import re
import shlex
import socket
import sys
import threading
from pathlib import Path

import pytest

from protoserve import Role, Session
from tests.running import ROOT, bound, ended, started

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [
        "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        for indent, kind, code in BLOCKS
        if kind == language
    ]


@pytest.fixture
def station(tmp_path):
    """
    A folder with the first example in it, under the name that it has there.
    """
    (code, *_) = blocks("python")
    name = re.match(r"# (\w+\.py)\n", code)[1]
    (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
def module(station, monkeypatch):
    monkeypatch.syspath_prepend(station)
    monkeypatch.delitem(sys.modules, "station", raising=False)
    import station as pasted

    yield pasted
    sys.modules.pop("station", None)


def test_thirty_lines():
    """The first example is short."""
    (code, *_) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 32


def ask(module, url):
    """
    Send the example's message as a client would, and give the answer.
    """
    transport, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    stream = transport == "tcp"
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    session = Session(module.sensors, Role.CLIENT, stream=stream)
    with socket.socket(type=kind) as sock:
        sock.settimeout(60)
        sock.connect((host, int(port)))
        session.send(module.Reading(7, 21.5, samples=[1, 2, 3]))
        (data,) = session.data_to_send()
        sock.sendall(data)
        session.receive_data(sock.recv(4096))
    return session.next_event()


def test_console(station, module):
    """The command line beside it serves it, and prints what is shown there."""
    (command,) = [
        line.removeprefix("$ ")
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ protoserve run ")
    ]
    (block,) = [b for b in blocks("console") if command in b]
    shown = [line for line in block.splitlines() if line.startswith("listening")]
    words = shlex.split(command.replace(":9000", ":0"))[1:]
    with started([sys.executable, "-m", "protoserve", *words], cwd=station) as process:
        urls = bound(process, len(shown))
        expected = [line.removeprefix("listening on ") for line in shown]
        assert expected == [re.sub(r":\d+$", ":9000", url) for url in urls]
        for url in urls:
            event = ask(module, url)
            assert (module.Ack(7), module.Reading(7, 21.5, samples=[1, 2, 3])) == (
                event.message,
                event.request,
            )
        code, printed = ended(process)
    assert (0, "0x7: 21.5 °C, [1, 2, 3]\n" * len(urls)) == (code, printed)


def test_classic_server(module, monkeypatch, capsys):
    """The classic server serves it too."""
    (code,) = [block for block in blocks("python") if "serve_forever" in block]
    from protoserve.server import ThreadingTCPServer

    running = threading.Event()

    def served(server, *_):
        running.server = server
        running.set()
        original(server)

    original = ThreadingTCPServer.serve_forever
    monkeypatch.setattr(ThreadingTCPServer, "serve_forever", served)
    program = compile(code.replace("9000", "0"), "README.md", "exec")
    thread = threading.Thread(target=exec, args=(program, {}))
    thread.start()
    assert running.wait(60)
    host, port = running.server.server_address
    assert module.Ack(7) == ask(module, f"tcp://{host}:{port}").message
    running.server.shutdown()
    thread.join()
    assert "0x7: 21.5 °C, [1, 2, 3]\n" == capsys.readouterr().out


def test_error(module):
    """The error that is shown is what such bytes cause."""
    (shown,) = [block for block in blocks("text") if "expected" in block]
    data = bytes.fromhex("00000007 41ac0000 03 0001 0002 00")
    with pytest.raises(Exception, match="samples") as caught:
        module.Reading.parse(data)
    lines = [line.rstrip() for line in str(caught.value).splitlines()]
    assert [line.rstrip() for line in shown.splitlines()] == lines


def test_links():
    """What the README points to is there."""
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [
        target
        for target in targets
        if not target.startswith("http") and not (ROOT / target).exists()
    ]
    assert [] == missing


def test_make_targets():
    """The commands it names are in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_pages_point_to_each_other(page):
    """What the pages point to is there as well."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [] == [t for t in targets if not Path(page.parent, t).exists()]
