"""
Names: text and labels, compression both ways, and names that are none.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import dns
from protoserve import InvalidMessageError, MalformedMessageError, Message, wire

LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=8)


class Pair(Message):
    """
    Two names, one after the other.
    """

    first: str = wire(dns.Name(compress=True))
    second: str = wire(dns.Name(compress=True))


class One(Message):
    name: str = wire(dns.Name())


def octets(text):
    return bytes.fromhex(text)


class TestText:
    @pytest.mark.parametrize(
        ("labels", "text"),
        [
            ([], "."),
            ([b"www", b"example", b"test"], "www.example.test"),
            ([b"_sip", b"_tcp", b"x-y"], "_sip._tcp.x-y"),
            ([b"WwW"], "WwW"),
            ([b"a.b", b"c"], r"a\.b.c"),
            ([b"a\\b"], r"a\\b"),
            ([b" \x00\x7f\xff"], r"\032\000\127\255"),
            ([b'"@$();'], '"@$();'),
        ],
    )
    def test_both_ways(self, labels, text):
        """
        RFC 1035 section 5.1: what would mean something else is escaped.
        """
        assert dns.to_text(labels) == text
        assert dns.to_labels(text) == tuple(labels)

    @pytest.mark.parametrize(
        ("text", "labels"),
        [
            ("www.test.", (b"www", b"test")),
            ("", ()),
            (r"\119ww.t\est", (b"www", b"test")),
            ("a b", (b"a b",)),
        ],
    )
    def test_other_spellings(self, text, labels):
        """
        Other ways to write a name are understood.
        """
        assert dns.to_labels(text) == labels

    @pytest.mark.parametrize(
        "text",
        [
            "a..b",
            ".a",
            "..",
            "a.b..",
            "x" * 64,
            ".".join(["x" * 49] * 5) + ".12345",
            "\\",
            "a\\",
            r"\256",
            r"\12",
            r"\1x",
            "grüße.test",
            "a..b\\.",
        ],
    )
    def test_no_name(self, text):
        """
        What is no name is refused, with its text.
        """
        with pytest.raises(ValueError, match="'"):
            dns.to_labels(text)

    def test_longest(self):
        """
        Labels of 63 octets and names of 255 are the largest.
        """
        longest = ".".join(["x" * 63] * 3 + ["y" * 61])

        assert len(bytes(One(longest))) == 255
        assert One.parse(bytes(One(longest))) == One(longest)

    @given(LABELS)
    def test_any_octets(self, labels):
        """
        Labels of any octets come back, from text and from bytes.
        """
        text = dns.to_text(labels)

        assert dns.to_labels(text) == tuple(labels)
        assert One.parse(bytes(One(text))) == One(text)

    def test_folded(self):
        """
        RFC 4343 section 3: names are compared without the case of ASCII letters.
        """
        assert dns.folded("WWW.Test.") == dns.folded("www.tEST")
        assert dns.folded(r"\196") != dns.folded(r"\228")


class TestParse:
    @pytest.mark.parametrize(
        ("data", "first", "second"),
        [
            ("01 61 00 c0 00", "a", "a"),
            ("01 61 01 62 00 c0 02", "a.b", "b"),
            ("01 61 01 62 00 01 63 c0 02", "a.b", "c.b"),
            ("00 c0 00", ".", "."),
            ("01 41 00 01 61 00", "A", "a"),
        ],
    )
    def test_pointers(self, data, first, second):
        """
        A pointer stands for the rest of an earlier name.
        """
        assert Pair.parse(octets(data)) == Pair(first, second)

    def test_chain(self):
        """
        A pointer may point to a pointer.
        """

        class Three(Message):
            first: str = wire(dns.Name())
            second: str = wire(dns.Name())
            third: str = wire(dns.Name())

        assert Three.parse(octets("01 61 00 c0 00 c0 03")) == Three("a", "a", "a")

    @pytest.mark.parametrize(
        ("data", "path", "offset", "reason"),
        [
            ("", "first", 0, "ends inside a name"),
            ("01", "first", 0, "ends inside a label"),
            ("01 61", "first", 0, "ends inside a name"),
            ("05 61 62", "first", 0, "ends inside a label"),
            ("c0", "first", 0, "ends inside a pointer"),
            ("c0 00", "first", 0, "points to offset 0"),
            ("c0 02 00", "first", 0, "points to offset 2"),
            ("01 61 c0 00", "first", 0, "points to offset 0"),
            ("00 c0 03 00", "second", 1, "points to offset 3"),
            ("00 01 62 c0 03", "second", 1, "points to offset 3"),
            ("00 01 62 c0 01", "second", 1, "points to offset 1"),
            ("40", "first", 0, "0x40"),
            ("80 00", "first", 0, "0x80"),
            ("00 bf ff", "second", 1, "0xbf"),
        ],
    )
    def test_refused(self, data, path, offset, reason):
        """
        Names that are cut, point forwards or to themselves are refused.
        """
        with pytest.raises(MalformedMessageError) as caught:
            Pair.parse(octets(data))

        assert caught.value.path == f"Pair.{path}"
        assert caught.value.offset == offset
        assert reason in caught.value.found

    def test_too_long(self):
        """
        A name has at most 255 octets.
        """
        label = b"\x3f" + b"x" * 63
        with pytest.raises(MalformedMessageError, match="at most 255 octets"):
            One.parse(label * 4 + b"\0")

    def test_too_long_by_a_pointer(self):
        """
        What a pointer adds counts, whether it is known already or not.
        """
        label = b"\x3f" + b"x" * 63
        first = label * 3 + b"\0"
        with pytest.raises(MalformedMessageError, match="at most 255 octets"):
            Pair.parse(first + label + b"\xc0\x00")

    def test_too_many_pointers(self):
        """
        A name has at most 127 pointers, whether they are known already or not.
        """
        links = [b"\0", *(
            (0xC000 | (0 if i == 0 else 1 + 2 * (i - 1))).to_bytes(2, "big")
            for i in range(128)
        )]  # fmt: skip

        class Chain(Message):
            names: list[str] = wire(dns.Name()[129])

        with pytest.raises(MalformedMessageError, match="at most 127 pointers"):
            Chain.parse(b"".join(links))

    def test_unread_chain(self):
        """
        A chain of pointers that nobody has read is followed just as far.
        """
        from construct import Bytes

        class Hidden(Message):
            chain: bytes = wire(Bytes(401))
            name: str = wire(dns.Name())

        def chained(last):
            pointers = [(0xC000 | max(0, 2 * i - 1)) for i in range(200)]
            data = b"\0" + b"".join(p.to_bytes(2, "big") for p in pointers)
            return data + (0xC000 | last).to_bytes(2, "big")

        assert Hidden.parse(chained(2 * 125 + 1)).name == "."
        with pytest.raises(MalformedMessageError, match="at most 127 pointers"):
            Hidden.parse(chained(2 * 128 + 1))

    def test_file(self, tmp_path):
        """
        A name is read from any stream that Construct reads from.
        """
        path = tmp_path / "names"
        path.write_bytes(octets("01 61 00 01 62 c0 00"))

        assert dns.Name()[2].parse_file(str(path)) == ["a", "b.a"]


class TestBuild:
    @pytest.mark.parametrize(
        ("first", "second", "data"),
        [
            ("a.b", "a.b", "01 61 01 62 00 c0 00"),
            ("a.b", "b", "01 61 01 62 00 c0 02"),
            ("a.b", "c.b", "01 61 01 62 00 01 63 c0 02"),
            ("a.b", "A.b", "01 61 01 62 00 01 41 c0 02"),
            (".", ".", "00 00"),
            ("a", "b", "01 61 00 01 62 00"),
        ],
    )
    def test_compressed(self, first, second, data):
        """
        The longest known end of a name is pointed to, if its case is the same.
        """
        assert bytes(Pair(first, second)) == octets(data)

    def test_specification(self):
        """
        RFC 1035 section 4.1.4: the four names of the example, at their offsets.
        """
        from construct import Bytes

        class Example(Message):
            before: bytes = wire(Bytes(20))
            first: str = wire(dns.Name(compress=True))
            gap: bytes = wire(Bytes(8))
            second: str = wire(dns.Name(compress=True))
            another_gap: bytes = wire(Bytes(18))
            third: str = wire(dns.Name(compress=True))
            last_gap: bytes = wire(Bytes(26))
            root: str = wire(dns.Name(compress=True))

        names = ["F.ISI.ARPA", "FOO.F.ISI.ARPA", "ARPA", "."]
        data = bytes(20) + octets("01 46 03 49 53 49 04 41 52 50 41 00")
        data = data.ljust(40, b"\0") + octets("03 46 4f 4f c0 14")
        data = data.ljust(64, b"\0") + octets("c0 1a")
        data = data.ljust(92, b"\0") + b"\0"
        example = Example(
            bytes(20), names[0], bytes(8), names[1], bytes(18), names[2], bytes(26), "."
        )

        assert bytes(example) == data
        assert Example.parse(data) == example

    def test_no_far_pointers(self):
        """
        A name behind the reach of pointers is written out each time.
        """
        from construct import Bytes

        class Far(Message):
            before: bytes = wire(Bytes(0x3FFF))
            pair: Pair = wire(Pair)

        far = Far(bytes(0x3FFF), Pair("a.b", "a.b"))

        assert bytes(far)[0x3FFF:] == octets("01 61 01 62 00 ff ff")
        assert Far.parse(bytes(far)) == far

    def test_no_pointers_in_other_data(self):
        """
        Offsets inside a part that is built by itself mean nothing, so it has none.
        """
        from construct import Int8ub, Prefixed

        class Outer(Message):
            name: str = wire(dns.Name(compress=True))
            inner: Pair = wire(Prefixed(Int8ub, Pair.construct))

        outer = Outer("a", Pair("a", "a"))

        assert bytes(outer) == octets("01 61 00 06 01 61 00 01 61 00")
        assert Outer.parse(bytes(outer)) == outer

    @pytest.mark.parametrize("name", ["a..b", "x" * 64, "ü", b"a", None, 7])
    def test_refused(self, name):
        """
        What is no name cannot be built.
        """
        with pytest.raises(InvalidMessageError) as caught:
            bytes(One(name))

        assert caught.value.path == "One.name"

    @given(st.tuples(LABELS, LABELS))
    def test_any_pair(self, pair):
        """
        Compression loses nothing.
        """
        message = Pair(*map(dns.to_text, pair))

        assert Pair.parse(bytes(message)) == message
