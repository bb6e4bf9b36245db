"""
``protoserve simulate``: run as users run it, and asked over real sockets.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

import pytest

from protocols import dns, modbus
from protoserve.client import Client
from protoserve.errors import PeerTimeoutError
from tests.certificates import Authority
from tests.running import ROOT, bound, ended, started
from tests.service.kit import PATIENCE

SIMULATE = (sys.executable, "-m", "protoserve", "simulate")
STATION = (*SIMULATE, "protocols.modbus:modbus", "--listen", "tcp://127.0.0.1:0")


def test_answers_until_told_to_stop(tmp_path):
    """It tells where it listens, answers, and ends with 0 and a count."""
    path = f"unix://{tmp_path}/s"
    with started([*STATION, "--listen", path, "--seed", "5"]) as process:
        urls = bound(process, 2)
        assert path == urls[1]
        answers = []
        for url in urls:
            with Client(modbus.modbus, url, timeout=PATIENCE) as client:
                answers.append(client.call(modbus.ReadHoldingRegisters(3, 4)))
        assert 4 == len(answers[0].values)
        assert answers[0] == answers[1]
        code, output = ended(process)
    assert 0 == code, output
    assert "2 requests; faults: none" in output


def test_faults_and_script(tmp_path):
    """Faults and a script are options; the faults are counted at the end."""
    script = tmp_path / "s.yaml"
    script.write_text("- {when: ReadCoils, answer: {values: [true]}}\n")
    options = ["--fault", "drop=100%@HoldingRegisters", "--fault", "delay=1ms+-1"]
    with started([*STATION, *options, "--script", script]) as process:
        (url,) = bound(process)
        with Client(modbus.modbus, url, timeout=PATIENCE) as client:
            with pytest.raises(PeerTimeoutError):
                client.call(modbus.ReadHoldingRegisters(3, 4), timeout=0.2)
            assert [True] == client.call(modbus.ReadCoils(0, 1)).first(1)
        code, output = ended(process, signal.SIGINT)
    assert 0 == code, output
    assert "2 requests; faults: delay 2, drop 1" in output


def test_datagrams():
    """Datagrams are served."""
    listen = ["--listen", "udp://127.0.0.1:0", "--fault", "duplicate"]
    with started([*SIMULATE, "protocols.dns:dns", *listen]) as process:
        (url,) = bound(process)
        with Client(dns.dns, url, timeout=PATIENCE) as client:
            question = dns.Question("www.example.test")
            assert [question] == client.call(dns.Query([question])).questions
        code, output = ended(process)
    assert 0 == code, output


def test_tls(tmp_path):
    """It listens at tls://, and faults happen inside of TLS."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost", "127.0.0.1")
    listen = ["--listen", "tls://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]
    faults = ["--fault", "split-every-byte=0ms"]
    command = [*SIMULATE, "protocols.modbus:modbus", *listen, *faults]
    with started(command) as process:
        (url,) = bound(process)
        tls = authority.client()
        with Client(modbus.modbus, url, timeout=PATIENCE, tls=tls) as client:
            assert modbus.CoilWritten(3, True) == client.call(
                modbus.WriteSingleCoil(3, True)
            )
        code, output = ended(process)
    assert 0 == code, output


def test_json_lines():
    """With --log-format json every line but the address is an object."""
    with started([*STATION, "--log-format", "json"]) as process:
        bound(process)
        code, output = ended(process)
    assert 0 == code
    lines = [json.loads(line) for line in output.splitlines()]
    assert "0 requests; faults: none" == lines[-1]["message"]


def test_line_on_a_terminal():
    """On a terminal a line tells what happens, below what else is printed."""
    ours, theirs = pty.openpty()
    seen = []
    listening = threading.Event()

    def read():
        text = ""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:
                return
            text += data.decode()
            seen[:] = [text]
            if re.search(r"listening on (\S+)\r", text):
                listening.set()

    command = [*STATION, "--fault", "delay=1ms"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        command, cwd=ROOT, stderr=theirs, stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert listening.wait(PATIENCE), seen
            url = re.search(r"listening on (\S+)\r", seen[0])[1]
            with Client(modbus.modbus, url, timeout=PATIENCE) as client:
                client.call(modbus.ReadCoils(0, 1))
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            reader.join(PATIENCE)
            os.close(ours)
    assert "1 request" in seen[0]
    assert "delay 1" in seen[0]
    assert "Traceback" not in seen[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--fault", "drpo=5%"], "there is no fault 'drpo'; did you mean drop?"),
        (["--fault", "drop@Coil"], "modbus has no message 'Coil'; did you mean Coils?"),
        (["--fault", "corrupt-checksum"], "modbus declares no checksum there"),
        (["--errors", "lots"], "--errors: expected a share such as 5%, found 'lots'"),
        (["--script", "no.yaml"], "no.yaml: No such file or directory"),
        (["--limit", "idel=3"], "did you mean idle?"),
        (["--listen", "udp://127.0.0.1:x"], "expected HOST:PORT with a port in"),
        (["--tls-cert", "x.pem"], "nothing listens on tls://"),
    ],
)
def test_wrong_options(refused, options, complaint):
    """What is wrong is one line and exit code 2."""
    assert complaint in refused(*STATION[3:], *options)


def test_wrong_targets(refused):
    """A wrong protocol, and one that is not spoken there, are told."""
    listen = ["--listen", "tcp://127.0.0.1:0"]
    assert "did you mean modbus?" in refused(
        "simulate", "protocols.modbus:modbsu", *listen
    )
    assert "ntp has no framing=" in refused("simulate", "protocols.ntp:ntp", *listen)
    place = "tcp://203.0.113.1:9"
    for fault in ([], ["--fault", "drop"]):
        line = refused("simulate", "protocols.modbus:modbus", "--listen", place, *fault)
        assert f"cannot listen on {place}: " in line
