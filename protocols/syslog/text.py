r"""
Entries as text: one grammar of RFC 5424, and the habits that RFC 3164 wrote down.

Which it is, is told by what stands behind the priority: a version, a space, and then a
year or the ``-`` of a missing timestamp. A priority above 191 is none (RFC 3164 section
4.3.3). RFC 3164 itself is no grammar; what is looked for, and may be missing:

::

    <34>Oct 11 22:14:15 mymachine su[230]: message           the usual form
    <34>Oct 11 22:14:15 su: message                          no host
    <13>2013-09-12T19:16:34.457849+04:00 host su: message    a time as in RFC 3339
    <13>2013-09-12T19:16:34Z host su[230] message            rsyslog, from RFC 5424
    <30>snmpd[6956]: message                                 no time: then no host either
    <166>Jul 10 2019 12:00:00 host : %ASA-6-302013: message  Cisco's firewalls
    <189>39: R1: *Sep 22 13:39:12.252: %LINK-3-UPDOWN: text  Cisco's routers
    anything else                                            all of it is the message

A tag ends with a colon or, behind a time, with a process; any other first word belongs
to the message, so that nothing is taken from plain text. Ends of lines and NULs at the
end, which many senders put there, are dropped.

What would be read back as something else is not built.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import construct

from protocols.lines import shown, text_of
from protocols.syslog.entries import Element, Entry, Facility, Severity
from protoserve import MalformedMessageError

__all__ = ["EntryText"]

_BOM = b"\xef\xbb\xbf"
_PRIORITY = re.compile(rb"<(\d{1,3})>")
_VERSION = re.compile(rb"([1-9]\d{0,2}) (?=- |-$|\d{4}-)")
_DATE = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?: ?Z| ?[+-]\d\d:?\d\d)?"
_MONTH = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_BSD_TIME = (
    rb"[*.]?" + _MONTH + rb" [ \d]?\d(?: \d{4})? \d\d:\d\d:\d\d(?:\.\d{1,9})?"
    rb"(?: [A-Z]{2,5}(?= ?:))?"
)
_TIME = rb"(?P<time>" + _DATE + rb"|" + _BSD_TIME + rb")"
_HOST = rb"(?P<host>[^\s\[\]]*[^\s\[\]:,])"
_TAG = rb"(?P<tag>[^\s:\[\]<>=\"]{1,128})"
_BSD = re.compile(
    rb"(?: *" + _TIME + rb":? +(?:" + _HOST + rb" +)?(?:: +)?)?"
    rb"(?:" + _TAG + rb"(?:\[(?P<pid>[^\s\[\]]{1,128})\])?"
    rb"(?:: ?|(?(pid)(?(time) |(?!))|(?!))))?"
)
_ELEMENT = rb"\[[^\s=\]\"]{1,255}(?: +[^\s=\]\"]{1,255}=\"(?:\\.|[^\"\\\]])*+\")*+ *\]"
_CISCO = re.compile(
    rb"(?P<number>\d{1,18}): (?:" + _HOST + rb": )?(?:(?P<data>" + _ELEMENT + rb"): )?"
    rb"(?:" + _TIME + rb": )?(?:(?P<tag>%[^\s:]{1,128}): ?)?",
    re.DOTALL,
)
_CISCO_HOST = re.compile(rb"(?P<host>[^\s\[\]:]+): (?=[*.]?" + _MONTH + rb" )")
_PARAM = re.compile(rb' +([^\s=\]"]+)="((?:\\.|[^"\\\]])*+)"', re.DOTALL)
_ELEMENT_START = re.compile(rb'\[([^\s=\]"]{1,255})')
_WORD = re.compile(rb"[!-~]{1,255}")
_FIELDS = ("timestamp", "hostname", "app_name", "procid", "msgid")
_MOST_ELEMENTS = 256
_ESCAPED = re.compile(r'\\(["\\\]])')


class EntryText(construct.Construct):  # type: ignore[misc] # construct is untyped
    """
    All that is left is one `Entry`.
    """

    def _parse(self, stream: Any, _context: Any, path: str) -> Entry:
        base = stream.tell()
        return _Reader(stream.read(), base, path).entry()

    def _build(self, obj: Any, stream: Any, _context: Any, path: str) -> Any:
        if not isinstance(obj, Entry):
            raise ValueError(f"expected an Entry, found {obj!r}")  # noqa: TRY004 - what a construct refuses is a value
        data = _written(obj)
        again = _Reader(data, 0, path).entry()
        if again != obj:
            raise ValueError(
                f"expected {again!r} where it is read again, found {obj!r}"
            )
        stream.write(data)
        return obj


class _Reader:
    """
    Reads one entry.
    """

    def __init__(self, data: bytes, base: int, path: str) -> None:
        self._data = data.rstrip(b"\r\n\0")
        self._base = base
        self._path = path

    def entry(self) -> Entry:
        """
        Read all of it.
        """
        if not self._data:
            self._refuse(0, "an entry", shown(b""))
        entry = Entry(facility=None, severity=None, version=None)
        at = 0
        priority = _PRIORITY.match(self._data)
        if priority and int(priority[1]) < 192:
            number, at = int(priority[1]), priority.end()
            entry.facility, entry.severity = Facility(number >> 3), Severity(number & 7)
            version = _VERSION.match(self._data, at)
            if version:
                entry.version = int(version[1])
                self._read_5424(entry, version.end())
                return entry
        self._read_3164(entry, at)
        return entry

    def _refuse(self, at: int, expected: str, found: str) -> NoReturn:
        raise MalformedMessageError(self._path, self._base + at, expected, found)

    # RFC 5424 --------------------------------------------------------------

    def _read_5424(self, entry: Entry, at: int) -> None:
        data = self._data
        for name in _FIELDS:
            word = _WORD.match(data, at)
            if word is None or data[word.end() : word.end() + 1] != b" ":
                place = at if word is None else word.end()
                what = name.replace("_", " ")
                expected = f"1 to 255 printable characters for the {what}, and a space"
                self._refuse(place, expected, shown(data[place:]))
            setattr(entry, name, None if word[0] == b"-" else word[0].decode("ascii"))
            at = word.end() + 1
        if data[at : at + 1] == b"-":
            at += 1
        else:
            entry.structured_data, at = self._elements(at)
        if at == len(data):
            return
        if data[at : at + 1] != b" ":
            self._refuse(at, "a space and the message", shown(data[at:]))
        entry.message = text_of(data[at + 1 :].removeprefix(_BOM))

    def _elements(self, at: int) -> tuple[list[Element], int]:
        """
        Read structured data; give it and the place behind it.
        """
        data = self._data
        found: list[Element] = []
        while data[at : at + 1] == b"[":
            if len(found) == _MOST_ELEMENTS:
                self._refuse(at, f"at most {_MOST_ELEMENTS} elements", "more")
            start = _ELEMENT_START.match(data, at)
            if start is None:
                self._refuse(at + 1, "the id of an element", shown(data[at + 1 :]))
            element = Element(text_of(start[1]))
            at = start.end()
            while param := _PARAM.match(data, at):
                value = _ESCAPED.sub(r"\1", text_of(param[2]))
                element.params.append([text_of(param[1]), value])
                at = param.end()
            end = data.find(b"]", at)
            if end < 0 or data[at:end].strip(b" "):
                expected = "a parameter, as in ' name=\"value\"', or ']'"
                self._refuse(at, expected, shown(data[at:]))
            at = end + 1
            found.append(element)
        if not found:
            self._refuse(at, "structured data, or '-'", shown(data[at:]))
        return found, at

    # RFC 3164 --------------------------------------------------------------

    def _read_3164(self, entry: Entry, at: int) -> None:
        data = self._data
        found = _CISCO.match(data, at)
        if found:
            entry.sequence = int(found["number"])
            if found["data"]:
                entry.structured_data = self._elements(found.start("data"))[0]
            entry.app_name = _optional(found["tag"])
        else:
            named = _CISCO_HOST.match(data, at)
            found = _BSD.match(data, named.end() if named else at)
            assert found is not None  # all of it may be missing
            entry.app_name = _optional(found["tag"])
            entry.procid = _optional(found["pid"])
            if named:
                entry.hostname = _optional(named["host"])
        entry.timestamp = _optional(found["time"])
        entry.hostname = entry.hostname or _optional(found["host"])
        entry.message = text_of(data[found.end() :])


def _optional(data: bytes | None) -> str | None:
    return None if data is None else text_of(data)


# Writing -----------------------------------------------------------------------


def _written(entry: Entry) -> bytes:
    priority = ""
    if entry.facility is not None and entry.severity is not None:
        priority = f"<{entry.facility << 3 | entry.severity}>"
    elif entry.facility is not None or entry.severity is not None:
        raise ValueError(
            "expected facility and severity, or neither, found one of them"
        )
    if entry.version is None:
        write = _written_3164 if entry.sequence is None else _written_cisco
        return f"{priority}{write(entry)}{entry.message}".encode()
    given = [getattr(entry, name) or "-" for name in _FIELDS]
    data = "".join(map(_element_text, entry.structured_data)) or "-"
    head = " ".join([f"{priority}{entry.version}", *given, data]).encode()
    if not entry.message:
        return head
    # RFC 5424 section 6.4: text that is UTF-8 begins with the mark that says so.
    mark = b"" if entry.message.isascii() else _BOM
    return head + b" " + mark + entry.message.encode()


def _written_3164(entry: Entry) -> str:
    head = f"{entry.timestamp} " if entry.timestamp else ""
    if entry.hostname:
        head += f"{entry.hostname} "
    if entry.app_name:
        process = f"[{entry.procid}]" if entry.procid else ""
        head += f"{entry.app_name}{process}: "
    return head


def _written_cisco(entry: Entry) -> str:
    data = "".join(map(_element_text, entry.structured_data))
    given = (entry.hostname, data, entry.timestamp, entry.app_name)
    return f"{entry.sequence}: " + "".join(f"{part}: " for part in given if part)


def _element_text(element: Element) -> str:
    params = "".join(f' {name}="{_escape(value)}"' for name, value in element.params)
    return f"[{element.id}{params}]"


def _escape(text: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", text)
