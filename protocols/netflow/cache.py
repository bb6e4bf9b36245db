"""
The templates that exporters have sent: bounded, expiring, and safe from strangers.

Anyone can send templates from as many made-up addresses as they like. So an exporter is
on probation until a template of its comes a second time, or data by it, a while later;
strangers then push out each other, but none that is proven. A proven exporter gives its
place up when all its templates have expired, and only then. Those on the allow-list are
proven from the start.

How much is kept is bounded three ways: exporters, templates of each, and bytes. Those on
probation have the places that the proven ones leave, and always some: a storm of
strangers takes next to nothing where places are taken by those that are known.

A template expires when it was not sent again for a while, as UDP asks for (RFC 7011
section 8.4). A collector has to be more patient than exporters are slow, by three times:
the default is thrice the half hour that Cisco's routers take by theirs. Over connections
templates come once and hold for as long as these last (RFC 7011 section 8.1), so there
they expire only when nothing was heard of the exporter for as long.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs

from protocols.netflow.store import TemplateStore
from protocols.netflow.templates import Template, Withdrawal
from protoserve.rarelog import RareLog

__all__ = ["Exporter", "TemplateCache", "TemplateLimits", "template_key"]

logger = logging.getLogger("protoserve")
_rare = RareLog(logger, 60.0)

_PAUSE = 1.0
"""Seconds between two writings of what has changed."""
_OVERHEAD = 250
"""Bytes that a template takes beyond its specifiers, about."""
_LEFT = 16
"""Of so many places one is always left for those on probation."""


@attrs.frozen(kw_only=True)
class TemplateLimits:
    """
    How much is kept of what exporters have sent.
    """

    exporters: int = 10_000
    """Addresses: proven ones, and others where there is room, a sixteenth at least."""
    templates: int = 1024
    """Templates of each exporter, over all its domains."""
    size: int = 64 << 20
    """Bytes of their templates, with the same room for those on probation."""
    lifetime: float = 5400.0
    """
    Seconds after which a template that was not sent again is forgotten; over
    connections, those of an exporter that has sent nothing.
    """
    probation: float = 1.0
    """Seconds after which an exporter that sends a template again, or data, is proven."""
    allowed: Collection[str] = ()
    """Addresses that need not prove themselves."""


@attrs.define
class _Known:
    template: Template
    since: float
    seen: float


@attrs.define(eq=False)
class Exporter:
    """
    What one exporter has sent. Keys are version, domain and template id in one number.
    """

    templates: dict[int, _Known] = attrs.field(factory=dict)
    """The one that came longest ago first."""
    size: int = 0
    stored: float = 0.0
    """When it was put into the store; 0 if it never was."""
    heard: float = -math.inf
    """When anything has come of it over a connection."""

    def seen(self, known: _Known) -> float:
        """
        Say when one of its templates was last good.
        """
        return max(known.seen, self.heard)


def template_key(version: int, domain: int, number: int) -> int:
    """
    Make the number by which an exporter's template is found.
    """
    return version << 48 | domain << 16 | number


@attrs.define(eq=False)
class _Ring:
    """
    Exporters, the one that was heard of longest ago first.
    """

    exporters: OrderedDict[str, Exporter] = attrs.field(factory=OrderedDict)
    size: int = 0
    """Bytes of all templates."""

    def pop(self, host: str) -> Exporter | None:
        exporter = self.exporters.pop(host, None)
        if exporter is not None:
            self.size -= exporter.size
        return exporter

    def put(self, host: str, exporter: Exporter) -> None:
        self.exporters[host] = exporter
        self.size += exporter.size


class TemplateCache:
    """
    The templates of all exporters.

    Args:
        limits: how much is kept.
        folder: where it is kept across restarts; `None`: nowhere.
    """

    def __init__(self, limits: TemplateLimits, folder: Path | None = None) -> None:
        self._limits = limits
        self._allowed = frozenset(limits.allowed)
        self._proven = _Ring()
        self._strangers = _Ring()
        self._store = None if folder is None else TemplateStore(folder)
        self._saved = 0.0
        self._changed: set[str] = set()
        """Exporters that the store has to be told of; no strangers."""
        if self._store is not None:
            self._load(self._store)

    def __len__(self) -> int:
        return len(self._proven.exporters) + len(self._strangers.exporters)

    @property
    def proven(self) -> Collection[str]:
        """
        Exporters that strangers do not push out.
        """
        return self._proven.exporters.keys()

    def find(self, host: str, key: int, now: float) -> Template | None:
        """
        Give a template, if it is known and has not expired.
        """
        exporter = self._proven.exporters.get(host)
        if exporter is None:
            exporter = self._strangers.exporters.get(host)
        known = None if exporter is None else exporter.templates.get(key)
        if exporter is None or known is None:
            return None
        if now - exporter.seen(known) > self._limits.lifetime:
            return None
        return known.template

    def hear(self, host: str, now: float) -> None:
        """
        Take note that an exporter is connected: its templates hold on.
        """
        for ring in (self._proven, self._strangers):
            exporter = ring.exporters.get(host)
            if exporter is not None:
                exporter.heard = now
                ring.exporters.move_to_end(host)
                if now - exporter.stored > self._limits.lifetime / 4:
                    self._note(ring, host)

    def use(self, host: str, key: int, now: float) -> Template | None:
        """
        Give a template by which data has come, if it is known and has not expired.
        """
        template = self.find(host, key, now)
        stranger = self._strangers.exporters.get(host)
        if template is not None and stranger is not None:
            since = stranger.templates[key].since
            if now - since >= self._limits.probation:
                self._prove(host, now)
        return template

    def known(self, host: str, now: float) -> list[tuple[int, Template]]:
        """
        Give all templates of an exporter that have not expired, with their domains.
        """
        exporter = self._proven.exporters.get(host)
        if exporter is None:
            exporter = self._strangers.exporters.get(host)
        if exporter is None:
            return []
        return [
            (key >> 16 & 0xFFFFFFFF, known.template)
            for key, known in exporter.templates.items()
            if now - exporter.seen(known) <= self._limits.lifetime
        ]

    def learn(self, host: str, domain: int, template: Template, now: float) -> bool:
        """
        Take note of a template.

        Returns:
            Whether it is other than what was known.
        """
        ring, exporter = self._place(host)
        ring.exporters.move_to_end(host)
        key = template_key(template.version, domain, template.id)
        known = exporter.templates.get(key)
        if known is not None and known.template == template:
            is_new = now - known.seen > self._limits.lifetime
            known.seen = now
            exporter.templates[key] = exporter.templates.pop(key)
            if ring is self._strangers and now - known.since >= self._limits.probation:
                self._prove(host, now)
            if now - exporter.stored > self._limits.lifetime / 4:
                self._note(ring, host)
            return is_new
        self._forget(ring, exporter, key)
        self._add(ring, exporter, key, _Known(template, now, now))
        while len(exporter.templates) > self._limits.templates or (
            ring is self._proven and ring.size > self._limits.size
        ):
            self._forget(ring, exporter, next(iter(exporter.templates)))
            text = "%s: it has more templates than are kept; its oldest is forgotten"
            _rare.log(logging.WARNING, text, host)
        self._note(ring, host)
        while ring is self._strangers and self._is_over(ring):
            self._pop(ring, next(iter(ring.exporters)))
        return True

    def withdraw(
        self, host: str, version: int, domain: int, withdrawal: Withdrawal
    ) -> list[Template]:
        """
        Forget what an exporter takes back, and give it.
        """
        ring = self._proven if host in self._proven.exporters else self._strangers
        exporter = ring.exporters.get(host)
        if exporter is None:
            return []
        first = template_key(version, domain, 0)
        gone = [
            key
            for key, known in exporter.templates.items()
            if 0 <= key - first < 1 << 16
            and withdrawal.id in (None, known.template.id)
            and (withdrawal.id or withdrawal.is_options == _is_options(known.template))
        ]
        templates = [exporter.templates[key].template for key in gone]
        for key in gone:
            self._forget(ring, exporter, key)
        if gone:
            self._note(ring, host)
        return templates

    def tick(self, now: float) -> None:
        """
        Forget what has expired, and tell the store what has changed.
        """
        oldest = now - self._limits.lifetime
        for ring in (self._strangers, self._proven):
            for host in self._silent(ring, oldest):
                self._pop(ring, host)
        if abs(now - self._saved) >= _PAUSE:
            self._save(now)

    def close(self, now: float) -> None:
        """
        Tell the store what has changed, and leave it.
        """
        self._save(now, at_once=True)
        if self._store is not None:
            self._store.close()

    def _silent(self, ring: _Ring, oldest: float) -> list[str]:
        # They are in the order in which they were heard of.
        gone = []
        for host, exporter in ring.exporters.items():
            last = next(reversed(exporter.templates.values()), None)
            if last is not None and exporter.seen(last) >= oldest:
                break
            gone.append(host)
        return gone

    def _note(self, ring: _Ring, host: str) -> None:
        """
        Have the store told of an exporter; of a stranger it is in the end.
        """
        if ring is self._proven:
            self._changed.add(host)

    def _pop(self, ring: _Ring, host: str) -> None:
        """
        Forget an exporter, in the store too.
        """
        exporter = ring.pop(host)
        if exporter is not None and exporter.stored:
            self._changed.add(host)

    def _place(self, host: str) -> tuple[_Ring, Exporter]:
        for ring in (self._proven, self._strangers):
            exporter = ring.exporters.get(host)
            if exporter is not None:
                return ring, exporter
        ring = self._proven if host in self._allowed else self._strangers
        exporter = Exporter()
        ring.put(host, exporter)
        return ring, exporter

    def _is_over(self, ring: _Ring) -> bool:
        """
        Say whether there are too many; strangers have what the proven ones leave.
        """
        most, size = self._limits.exporters, self._limits.size
        if ring is self._strangers:
            most = max(most - len(self._proven.exporters), most // _LEFT, 1)
            size = max(size - self._proven.size, size // _LEFT)
        return len(ring.exporters) > most or ring.size > size

    def _prove(self, host: str, now: float) -> None:
        """
        Let an exporter among the proven ones, if there is room for it.
        """
        ring, exporter = self._proven, self._strangers.exporters[host]
        room = len(ring.exporters) < self._limits.exporters
        if not room:
            silent = next(iter(ring.exporters))
            room = silent in self._silent(ring, now - self._limits.lifetime)
            if room:
                self._pop(ring, silent)
        if room and ring.size + exporter.size <= self._limits.size:
            self._strangers.pop(host)
            ring.put(host, exporter)
            self._changed.add(host)

    def _add(self, ring: _Ring, exporter: Exporter, key: int, known: _Known) -> None:
        size = _OVERHEAD + len(known.template.specifiers)
        exporter.templates[key] = known
        exporter.size += size
        ring.size += size

    def _forget(self, ring: _Ring, exporter: Exporter, key: int) -> None:
        known = exporter.templates.pop(key, None)
        if known is not None:
            size = _OVERHEAD + len(known.template.specifiers)
            exporter.size -= size
            ring.size -= size

    # The store -------------------------------------------------------------

    def _load(self, store: TemplateStore) -> None:
        for row in store.load():
            ring = self._proven if row.is_proven else self._strangers
            if row.host not in ring.exporters:
                if self._is_over(ring):
                    continue
                ring.put(row.host, Exporter(stored=row.seen))
            exporter = ring.exporters[row.host]
            key = template_key(row.template.version, row.domain, row.template.id)
            self._add(ring, exporter, key, _Known(row.template, row.since, row.seen))

    def _save(self, now: float, *, at_once: bool = False) -> None:
        """
        Tell the store; of strangers only in the end: most are gone again, in a storm.
        """
        if self._store is None:
            return
        hosts = self._changed
        if at_once:
            hosts = hosts.union(self._strangers.exporters)
        if not hosts:
            return
        self._saved = now
        ready = {host: self._rows(host, now) for host in hosts}
        if self._store.save(ready):
            self._changed.difference_update(ready)
        elif len(self._changed) > 4 * self._limits.exporters:
            self._changed.intersection_update(self._proven.exporters)

    def _rows(self, host: str, now: float) -> Iterator[tuple[object, ...]]:
        is_proven = host in self._proven.exporters
        ring = self._proven if is_proven else self._strangers
        exporter = ring.exporters.get(host)
        if exporter is None:
            return
        exporter.stored = now
        for key, known in exporter.templates.items():
            domain = key >> 16 & 0xFFFFFFFF
            seen = exporter.seen(known)
            row = TemplateStore.row(domain, known.template, known.since, seen)
            yield (host, is_proven, *row)


def _is_options(template: Template) -> bool:
    return template.scopes is not None
