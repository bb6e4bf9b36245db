"""
What the documentation says is so.

Every ``python`` block of a page is run, in order, in one namespace: blocks with
``>>>`` as doctests, others as they are. A block that begins with ``# name.py`` is
that module for the blocks behind it. A server that a block would run for ever in
its own thread is stopped at once, and ports of the loopback are chosen by the
system. A block behind an HTML comment that begins with ``not run:`` is left alone.
"""

import ast
import doctest
import inspect
import io
import re
import sys
import threading
import types
import zlib
from pathlib import Path

import attrs
import construct
import pytest
from construct import core

import protoserve
from protoserve import (
    Caps,
    DeclarationError,
    Limits,
    MalformedMessageError,
    Message,
    errors,
    server,
    wire,
)
from protoserve.server import BaseServer

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md"))
OTHERS = [ROOT / f"{n}.md" for n in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
RUN = [page for page in [*PAGES, ROOT / "README.md"] if page.name != "framing.md"]

BLOCK = re.compile(
    r"^(?P<note><!-- not run: [^\n]*-->\n)?(?P<indent> *)```python\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(name):
    return (ROOT / name).read_text("utf-8")


def outside_code(text):
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def table(name, heading):
    """Give the rows of the table whose head has this first cell, without markup."""
    lines = iter(read(name).splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    else:
        pytest.fail(f"{name} has no table of {heading}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    return rows


def documented(module, name):
    """Give the strings under the assignments of a class, by attribute."""
    tree = ast.parse(inspect.getsource(module))
    cls = next(
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


@pytest.fixture
def page_module(request, monkeypatch):
    """Make the namespace that the blocks of one page share; pickle finds it."""
    module = types.ModuleType(f"docs_{request.node.callspec.id}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    here = threading.get_ident()
    serve = BaseServer.serve_forever

    def bounded(self, poll_interval=0.5):
        if threading.get_ident() == here:
            self.shutdown()
        serve(self, poll_interval)

    monkeypatch.setattr(BaseServer, "serve_forever", bounded)
    return module


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_examples(page, page_module, monkeypatch):
    """Each example on a page does what the page says."""
    text = page.read_text("utf-8")
    names = vars(page_module)
    output = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for block in BLOCK.finditer(text):
        if block["note"]:
            continue
        line = text.count("\n", 0, block.start("code"))
        code = re.sub(f"^{block['indent']}", "", block["code"], flags=re.MULTILINE)
        code = re.sub(r'\("127\.0\.0\.1", \d+\)', '("127.0.0.1", 0)', code)
        if ">>>" in code:
            name, parser = f"{page.name}:{line}", doctest.DocTestParser()
            test = parser.get_doctest(code, {}, name, str(page), line)
            test.globs = names
            runner.run(test, out=output.write, clear_globs=False)
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)
            if file := re.match(r"# (\w+)\.py\n", code):
                monkeypatch.setitem(sys.modules, file[1], page_module)
    assert runner.summarize(verbose=False).failed == 0, output.getvalue()


def slugs(text):
    """Give what links to a page may point at."""
    heads = re.findall(r"^#+ (.*)$", outside_code(text), re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return made | set(re.findall(r"^\((.+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.stem)
def test_links(page):
    """Each relative link leads to a file that is there, and to a heading in it."""
    for link in LINK.findall(outside_code(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text("utf-8")), link


def test_index_has_all_pages():
    """The first page leads to every other."""
    linked = {link.partition("#")[0] for link in LINK.findall(read("docs/index.md"))}
    assert {page.name for page in PAGES} - {"index.md"} <= linked


@pytest.mark.parametrize("name", protoserve.__all__)
def test_public_names(name):
    """Every public name is on some page."""
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    assert re.search(rf"\b{name}\b", pages)


def construct_names():
    """Give what Construct calls its classes, single objects included."""
    for name, value in vars(core).items():
        cls = value if isinstance(value, type) else type(value)
        if issubclass(cls, construct.Construct) and name == cls.__name__:
            yield name
    yield from ("Probe", "Debugger")


def construct_rows():
    return {row[0].strip("`"): row[1] for row in table("docs/construct.md", "Class")}


def test_all_construct_classes():
    """The table has each of Construct's classes once, in order."""
    listed = [row[0].strip("`") for row in table("docs/construct.md", "Class")]
    assert sorted(construct_names()) == listed


def test_all_construct_functions():
    """The page names the functions that make Construct objects, too."""
    text = read("docs/construct.md")
    for name, value in vars(core).items():
        if name[0].isupper() and inspect.isfunction(value):
            assert f"`{name}`" in text, name


class Whole(construct.Adapter):
    def _decode(self, obj, context, path):
        return obj + 1

    def _encode(self, obj, context, path):
        return obj - 1


class Small(construct.Validator):
    def _validate(self, obj, context, path):
        return obj < 5


class Twisted(construct.SymmetricAdapter):
    def _decode(self, obj, context, path):
        return obj ^ 1


class Reversed(construct.Tunnel):
    def _decode(self, data, context, path):
        return data[::-1]

    _encode = _decode


class Own(construct.Construct):
    def _parse(self, stream, context, path):
        return core.stream_read(stream, 2, path)

    def _build(self, obj, stream, context, path):
        core.stream_write(stream, obj, 2, path)


C = construct
BYTE, WORD = C.Int8ub, C.Int16ub
LIST = C.Array(2, BYTE)
RECURSIVE = C.Struct(
    "n" / BYTE, "next" / C.If(C.this.n, C.LazyBound(lambda: RECURSIVE))
)
SUMMED = C.Struct(
    "f" / C.RawCopy(BYTE), "c" / C.Checksum(C.Bytes(1), lambda d: d, C.this.f.data)
)
ZIPPED = zlib.compress(b"abc")
SAMPLES = {
    "Adapter": (Whole(BYTE), b"\1", b""),
    "Aligned": (C.Aligned(4, BYTE), b"\1\0\0\0", b"\1"),
    "Array": (LIST, b"ab", b"a"),
    "BitsInteger": (C.Bitwise(C.Struct("a" / C.BitsInteger(8))), b"a", b""),
    "Bytes": (C.Bytes(2), b"ab", b"a"),
    "BytesInteger": (C.BytesInteger(3), b"abc", b"ab"),
    "Check": (C.Struct("a" / BYTE, C.Check(C.this.a == 1)), b"\1", b"\2"),
    "Checksum": (SUMMED, b"aa", b"ab"),
    "Compiled": (BYTE.compile(), b"a", b""),
    "Compressed": (C.Compressed(C.GreedyBytes, "zlib"), ZIPPED, ZIPPED[:-5]),
    "Computed": (C.Computed(5), b"", None),
    "Const": (C.Const(b"MZ"), b"MZ", b"MX"),
    "Construct": (Own(), b"ab", b"a"),
    "Debugger": (C.Debugger(BYTE), b"a", b""),
    "Default": (C.Default(BYTE, 7), b"a", b""),
    "Enum": (C.Enum(BYTE, a=1), b"\1", b""),
    "Error": (C.Select(BYTE, C.Error), b"a", b""),
    "ExprAdapter": (C.ExprAdapter(BYTE, C.obj_ + 1, C.obj_ - 1), b"a", b""),
    "ExprSymmetricAdapter": (C.ExprSymmetricAdapter(BYTE, C.obj_ & 15), b"a", b""),
    "ExprValidator": (C.OneOf(BYTE, [1, 2]), b"\1", b"\3"),
    "FixedSized": (C.FixedSized(4, WORD), b"abcd", b"abc"),
    "Flag": (C.Flag, b"\2", b""),
    "FlagsEnum": (C.FlagsEnum(BYTE, a=1, b=2), b"\3", b""),
    "FocusedSeq": (C.FocusedSeq("x", C.Const(b"M"), "x" / BYTE), b"Ma", b"Xa"),
    "FormatField": (C.Float32l, b"abcd", b"abc"),
    "GreedyBytes": (C.GreedyBytes, b"abc", None),
    "GreedyRange": (C.GreedyRange(WORD), b"abcd", b"abc"),
    "Hex": (C.Hex(BYTE), b"a", b""),
    "HexDump": (C.HexDump(C.Bytes(2)), b"ab", b"a"),
    "IfThenElse": (C.IfThenElse(C.this.n, BYTE, WORD), b"ab", b"a"),
    "Index": (C.Array(2, C.Index), b"", None),
    "Indexing": (C.Indexing(C.Array(4, BYTE), 4, 1, empty=0), b"abcd", b"a"),
    "Lazy": (C.Lazy(BYTE), b"a", None),
    "LazyArray": (C.LazyArray(2, BYTE), b"ab", b"a"),
    "LazyBound": (RECURSIVE, b"\1\0", b"\1"),
    "LazyStruct": (C.LazyStruct("a" / BYTE), b"a", b""),
    "Mapping": (C.Mapping(BYTE, {"x": 1}), b"\1", b"\2"),
    "NamedTuple": (C.NamedTuple("N", "a b", C.Sequence(BYTE, BYTE)), b"ab", None),
    "NullStripped": (C.NullStripped(C.GreedyBytes), b"ab\0\0", None),
    "NullTerminated": (C.NullTerminated(C.GreedyBytes), b"ab\0", b"ab"),
    "OffsettedEnd": (C.OffsettedEnd(0, C.GreedyBytes), b"abcd", None),
    "Padded": (C.Padded(4, BYTE), b"a\0\0\1", b"ab"),
    "Pass": (C.Pass, b"", None),
    "Peek": (C.Struct("p" / C.Peek(WORD), "d" / BYTE), b"a", b""),
    "Pickled": (C.Pickled, b"", None),
    "Pointer": (C.Struct("p" / C.Pointer(1, BYTE), "d" / C.Bytes(2)), b"ab", b"a"),
    "Prefixed": (C.Prefixed(BYTE, WORD), b"\2ab", b"\3abc"),
    "Probe": (C.Probe(lookahead=1), b"", None),
    "ProcessRotateLeft": (C.ProcessRotateLeft(4, 1, C.Bytes(2)), b"ab", b"a"),
    "ProcessXor": (C.ProcessXor(32, C.Bytes(2)), b"ab", b"a"),
    "RawCopy": (C.RawCopy(WORD), b"ab", b"a"),
    "Rebuffered": (C.Rebuffered(BYTE), b"a", b""),
    "Rebuild": (C.Rebuild(BYTE, 7), b"\7", b""),
    "Renamed": ("name" / BYTE, b"a", b""),
    "RepeatUntil": (C.RepeatUntil(C.obj_ == 0, BYTE), b"ab\0", b"ab"),
    "RestreamData": (C.RestreamData(b"\1", BYTE), b"", None),
    "Restreamed": (
        C.Bitwise(C.Struct("n" / C.Nibble, "x" / C.Array(C.this.n, C.Nibble))),
        b"\x31\x23",
        b"\x31",
    ),
    "Seek": (C.Struct("a" / BYTE, C.Seek(0, 1), "b" / BYTE), b"ab", b"a"),
    "Select": (C.Select(C.Int32ub, WORD), b"ab", b"a"),
    "Sequence": (C.Sequence(BYTE, BYTE), b"ab", b"a"),
    "Slicing": (C.Slicing(C.Array(4, BYTE), 4, 1, 3, empty=0), b"abcd", b"a"),
    "StopIf": (C.Struct("a" / BYTE, C.StopIf(C.this.a == 0), "b" / BYTE), b"\0", b"\1"),
    "StringEncoded": (C.PascalString(BYTE, "utf-8"), b"\2\xc3\xbc", b"\2\xc3("),
    "Struct": (C.Struct("a" / BYTE, "b" / BYTE), b"ab", b"a"),
    "Subconstruct": (C.Subconstruct(WORD), b"ab", b"a"),
    "Switch": (C.Switch(1, {1: BYTE}), b"a", b""),
    "SymmetricAdapter": (Twisted(BYTE), b"a", b""),
    "Tell": (C.Struct("a" / BYTE, "t" / C.Tell), b"a", b""),
    "Terminated": (C.Struct("a" / BYTE, C.Terminated), b"a", b"ab"),
    "Transformed": (C.ByteSwapped(C.Int24ub), b"abc", b"ab"),
    "Tunnel": (Reversed(WORD), b"ab", b"a"),
    "Union": (C.Union("b", "a" / WORD, "b" / C.Bytes(2)), b"ab", b"a"),
    "Validator": (Small(BYTE), b"\1", b"\7"),
    "VarInt": (C.VarInt, b"\x80\1", b"\x80"),
    "ZigZag": (C.ZigZag, b"\3", b"\x80"),
}
"""For each class an object, bytes that it takes, and bytes that it ought not to."""

NO_SAMPLE = {
    "CompressedLZ4": "needs lz4",
    "EncryptedSym": "needs cryptography",
    "EncryptedSymAead": "needs cryptography",
    "Numpy": "needs numpy",
    "TimestampAdapter": "needs arrow",
}


def as_plain(value):
    """Bring what lists and structures of Construct are to plain ones."""
    if isinstance(value, dict):
        return {k: as_plain(v) for k, v in dict(value).items() if k != "_io"}
    if isinstance(value, list):
        return [as_plain(v) for v in list(value)]
    return value


def declared(subcon):
    class Holder(Message):
        n: int = wire(BYTE, default=0)
        value: object = wire(subcon, kw_only=True)

    return Holder


def outcome(parse, *errors):
    try:
        return as_plain(parse())
    except errors:
        return "refused"


def test_construct_samples():
    """Each class is tried below, or there is a reason why not."""
    assert SAMPLES.keys() | NO_SAMPLE.keys() == set(construct_names())


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_construct_rows(name):
    """A row's word is what the class does, with good data and with bad."""
    word = construct_rows()[name]
    assert word in {row[0] for row in table("docs/construct.md", "Word")}
    subcon, good, bad = SAMPLES[name]
    if word == "refused":
        with pytest.raises(DeclarationError, match="is refused"):
            declared(subcon)
        return
    cls = declared(subcon)
    there = C.Struct("n" / BYTE, "value" / subcon)

    def here(data):
        return outcome(lambda: cls.parse(b"\0" + data).value, MalformedMessageError)

    def in_construct(data):
        return outcome(lambda: there.parse(b"\0" + data).value, Exception)

    same = here(good) == in_construct(good) != "refused"
    assert same is (word != "not yet")
    if bad is not None:
        assert here(bad) == "refused"
        if word == "stricter" and name in {"GreedyRange", "Prefixed"}:
            assert in_construct(bad) != "refused"
        if word == "same":
            assert in_construct(bad) == "refused"


def test_caps():
    """The page's table of caps is the class's."""
    texts = documented(protoserve.codec.caps, "Caps")
    rows = [
        [f"`{field.name}`", str(field.default), texts[field.name]]
        for field in attrs.fields(Caps)
    ]
    assert rows == table("docs/messages.md", "Cap")


def test_limits():
    """The page's table of limits is the class's."""
    texts = documented(protoserve.limits, "Limits")
    rows = []
    for field in attrs.fields(Limits):
        default = field.default
        if isinstance(default, attrs.Factory):
            default = "80 % of the descriptors"
        rows.append([f"`{field.name}`", str(default), texts[field.name]])
    assert rows == table("docs/services.md", "Limit")


def test_security_defaults():
    """The defaults that SECURITY.md names are all there are."""
    named = [row[0].strip("`") for row in table("SECURITY.md", "Cap or limit")]
    caps = [f"Caps.{field.name}" for field in attrs.fields(Caps)]
    assert caps + [f"Limits.{field.name}" for field in attrs.fields(Limits)] == named


def test_error_tree():
    """The page draws the tree that the module has."""
    pattern = re.compile(r"^([│├└─ ]*)(\w+Error|ErrorResponse)\b", re.MULTILINE)
    drawn = pattern.findall(read("docs/errors.md").partition("```text\n")[2])
    classes, above = [], {}
    for marks, name in drawn:
        if not marks and classes:
            break
        depth = len(marks) // 4
        above[depth] = name
        classes.append(name)
        if depth:
            assert getattr(errors, above[depth - 1]) in getattr(errors, name).__bases__
    assert sorted(classes) == sorted(errors.__all__)


def test_error_attributes():
    """The page names the attributes that the errors have."""
    source = ast.parse(inspect.getsource(errors))
    own = {
        node.name: {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        }
        for node in source.body
        if isinstance(node, ast.ClassDef)
    }
    rows = table("docs/errors.md", "Error")
    assert {name for name, found in own.items() if found} == {r[0][1:-1] for r in rows}
    for name, names in rows:
        listed = set(re.findall(r"`(\w+)`", names.partition(":")[0]))
        assert own[name[1:-1]] == listed - {"header"}


def test_server_variables():
    """Class variables have the defaults that the page says."""
    for name, default, cls, _ in table("docs/servers.md", "Variable"):
        value = getattr(getattr(server, cls[1:-1]), name[1:-1])
        shown = value.name if hasattr(value, "name") else repr(value).replace("'", '"')
        assert default[1:-1] == shown


def test_server_methods():
    """Methods that may be overridden exist."""
    kinds = [server.UnixDatagramServer, server.TCPServer]
    for row in table("docs/servers.md", "Method"):
        for name in re.findall(r"`(\w+)\(", row[0]):
            assert any(hasattr(kind, name) for kind in kinds), name


@pytest.mark.parametrize("name", server.__all__)
def test_server_names(name):
    """The page on servers names all of them."""
    assert f"`{name}`" in read("docs/servers.md")


def test_run_options():
    """The page names all options of `protoserve run`, with their defaults."""
    typer = pytest.importorskip("typer")
    commands = pytest.importorskip("protoserve.cli.commands")
    run = typer.main.get_command(commands.app).commands["run"]
    rows = {
        tuple(re.findall(r"(?<=`)--?[a-z-]+", row[0])): row[1].strip("`")
        for row in table("docs/services.md", "Option `protoserve run`")
    }
    options = {
        tuple(p.opts): p.default
        for p in run.params
        if p.param_type_name == "option" and p.name != "help"
    }
    assert rows.keys() == options.keys()
    for names, default in options.items():
        shown = "" if default in (None, False, [], ()) or not default else str(default)
        assert rows[names] == shown.removesuffix(".0")


def test_options_are_on_pages():
    """Each option of a command is on the page that the table of commands names."""
    typer = pytest.importorskip("typer")
    commands = pytest.importorskip("protoserve.cli.commands")
    pages = {
        row[0].strip("`"): re.search(r"\((\w+\.md)?", row[2])[1] or "commands.md"
        for row in table("docs/commands.md", "Command")
    }
    app = typer.main.get_command(commands.app)
    assert pages.keys() == app.commands.keys()
    missing = [
        (name, option.opts)
        for name, command in app.commands.items()
        for option in command.params
        if option.param_type_name == "option"
        and not any(word in read(f"docs/{pages[name]}") for word in option.opts)
        and option.name != "help"
    ]
    assert [] == missing


def test_collect_options():
    """The page names all options of `protoserve collect`, and their words."""
    typer = pytest.importorskip("typer")
    commands = pytest.importorskip("protoserve.cli.commands")
    collect = typer.main.get_command(commands.app).commands["collect"]
    rows = {row[0].strip("`"): row[2] for row in table("docs/collect.md", "Option")}
    options = {
        p.opts[0]: p
        for p in collect.params
        if p.param_type_name == "option" and p.name != "help"
    }
    assert rows.keys() == options.keys()
    assert "`auto`" in rows["--workers"]


def test_names_of_flows():
    """The page on sinks gives the names that v9 and IPFIX have for version 5's."""
    text = outside_code(read("docs/sinks.md"))
    for name in ("sourceIPv4Address", "protocolIdentifier", "octetDeltaCount"):
        assert f"`{name}`" in text


def test_make_targets():
    """Commands that contributors are told of exist."""
    makefile = read("Makefile")
    for target in re.findall(r"`make (\w+)", read("CONTRIBUTING.md")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
