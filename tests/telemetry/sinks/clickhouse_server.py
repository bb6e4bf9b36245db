"""
ClickHouse's own engine, chDB, behind as much of its HTTP interface as a sink uses.

    python clickhouse_server.py PORT FOLDER

There is no ClickHouse server in a package that a test could install; the engine is one.
What speaks HTTP here is ours: statements, formats, and what is stored are ClickHouse's.
"""

import http.server
import re
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

from chdb.session import Session

ALONE = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    session: Session
    folder: Path

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = asked.get("query", "")
        with ALONE:
            try:
                if not query:
                    query, body = body.decode(), b""
                answer, status = self.answer(asked, query, body), 200
            except Exception as exc:
                answer, status = str(exc).encode(), 500
        self.send_response(status)
        if status != 200:
            code = re.search(rb"Code: (\d+)", answer)
            self.send_header(
                "X-ClickHouse-Exception-Code", code[1].decode() if code else "1"
            )
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def answer(self, asked, query, body):
        if "database" in asked:
            self.session.query(f"USE `{asked['database']}`")
        insert = re.fullmatch(r"(INSERT INTO .*) FORMAT (\w+)\s*", query, re.DOTALL)
        if insert:
            with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                file.write(body)
                file.flush()
                return self.session.query(
                    f"{insert[1]} FROM INFILE '{file.name}' FORMAT {insert[2]}"
                ).bytes()
        form = re.search(r"\sFORMAT (\w+)\s*$", query)
        fmt = form[1] if form else asked.get("default_format", "TabSeparated")
        return self.session.query(query[: form.start()] if form else query, fmt).bytes()

    def log_message(self, *args):
        pass


def main():
    port, Handler.folder = int(sys.argv[1]), Path(sys.argv[2])
    Handler.session = Session(str(Handler.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
