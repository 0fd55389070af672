"""Can we read an outbox? From the name of its server to its listing, step by step."""

from __future__ import annotations

import re
from dataclasses import replace

from peer_sync import identity, names
from peer_sync.address import HOST_KEY_TYPES, Address, parse_address
from peer_sync.doctor import reach, sentences
from peer_sync.doctor.doors import Door
from peer_sync.doctor.findings import FAILED, OK, UNKNOWN, WARNING, Check, Result, within
from peer_sync.doctor.sentences import Attempt
from peer_sync.errors import ConfigError, LoginError, NotFoundError, PeerSyncError, RejectedError
from peer_sync.identity import fingerprint

SESSION_SECONDS = 18.0
KEYS = re.compile(r"expected (\S+ \S+), found (.*)$")


class Outgoing:
    """The checks of one door, and what they have found for those that follow."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport = door.transport
        self.newest = 0
        self._addresses: list[str] = []
        self._hit: reach.Hit | None = None
        self._outcome: list[str] | PeerSyncError | None = None

    def checks(self) -> list[Check]:
        """All of them, in order."""
        if self.door.is_folder:
            return [Check("folder", self._folder), Check("outbox", self._outbox, self.transport.close)]
        cut = self.transport.close
        return [
            Check("name", self._name),
            Check("port", self._port),
            Check("round trip", self._round_trip),
            Check("greeting", self._greeting),
            Check("host key", self._host_key, cut),
            Check("login", self._login, cut),
            Check("outbox", self._outbox, cut),
        ]

    def close(self) -> None:
        """Let go of all connections."""
        if self._hit is not None:
            self._hit.sock.close()
        self.transport.close()

    @property
    def _first(self) -> Address:
        """The machine that we dial ourselves: the server, or the jump host before it."""
        jump = self.door.jump
        return parse_address(jump.address if jump else self.door.address)

    def _attempt(self, is_first: bool = False) -> Attempt:
        """What was tried; ``is_first`` as long as that is about the machine that we dial ourselves."""
        door, first = self.door, self._first
        address = self._hit.address if self._hit else next(iter(self._addresses), "")
        source = self._hit.source if self._hit else address and reach.source_of(address, first.port)
        ways = [f"as the jump host on the way to {parse_address(door.address)}"] if door.jump else []
        ways += ["by the system's own ssh and its configuration"] if door.site.carrier == "ssh" else []
        key, whose = fingerprint(door.site.member.public_key), door.whose
        if door.jump:
            whose = "whoever runs the jump host" if is_first else f"{whose}, or whoever runs the jump host,"
        return Attempt(whose, source, first.host, address, first.port, ", ".join(ways), key)

    def _dialled(self, result: Result) -> Result:
        """The system's ssh may know a way that we do not see: then a failure before SSH decides nothing."""
        if result.verdict != FAILED or self.door.site.carrier != "ssh":
            return result
        return replace(result, verdict=WARNING, ends=False)

    def _name(self) -> Result:
        first = self._first
        place = f"jump host {first.host}" if self.door.jump else first.host
        try:
            self._addresses = reach.resolve(first.host, first.port)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            advice = sentences.no_name(self._attempt(True), reason.lower())
            return self._dialled(
                Result(FAILED, f"{place}: {reason.lower()}", "an address", advice, ends=True)
            )
        if self._addresses == [first.host]:
            return Result(OK, f"{place}, an address itself")
        return Result(OK, f"{place} is {', '.join(self._addresses)}")

    def _port(self) -> Result:
        port = self._first.port
        if not self._addresses:
            return Result(UNKNOWN, "no address to try")
        found = reach.connect(self._addresses, port, reach.CONNECT_SECONDS)
        if isinstance(found, reach.Hit):
            self._hit = found
            return Result(OK, f"{found.address} port {port} answers")
        advice = sentences.no_port(self._attempt(True), found)
        words = "; ".join(f"{miss.address} port {port}: {miss.words}" for miss in found)
        return self._dialled(Result(FAILED, words, "an open port", advice, ends=True))

    def _round_trip(self) -> Result:
        if self._hit is None:
            return Result(UNKNOWN, "no connection")
        return Result(OK, f"{self._hit.seconds * 1000:.1f} ms")

    def _greeting(self) -> Result:
        if self._hit is None:
            return Result(UNKNOWN, "no connection")
        try:
            return Result(OK, reach.greeting(self._hit.sock, reach.GREETING_SECONDS))
        except reach.GreetingError as error:
            advice = sentences.no_greeting(self._attempt(True), str(error))
            result = Result(FAILED, str(error), "the greeting of an SSH server", advice, ends=True)
            return self._dialled(result)
        finally:
            self._hit.sock.close()

    def _session(self) -> list[str] | PeerSyncError:
        """What logging in and listing came to; it is tried once."""
        if self._outcome is None:
            try:
                self._outcome = within(SESSION_SECONDS, self.transport.names)
            except PeerSyncError as error:
                self._outcome = error
            except TimeoutError as error:
                self.transport.close()
                self._outcome = PeerSyncError(str(error))
        return self._outcome

    def _host_key(self) -> Result:
        outcome, expected = self._session(), fingerprint(self.door.host_key)
        if isinstance(outcome, RejectedError) and outcome.rule == "host-key":
            expected, found = _keys(str(outcome)) or (expected, str(outcome))
            advice = sentences.other_host_key(self._attempt(), found, expected, self._owner(found))
            return Result(FAILED, found, expected, advice, ends=True)
        if not isinstance(outcome, list | LoginError) and not _is_after_login(outcome):
            return Result(UNKNOWN, "SSH ended before it could be told", expected)
        return Result(OK, f"the pinned one, {expected}")

    def _owner(self, found: str) -> str:
        """The other site that has this host key; empty if none has."""
        members = self.door.site.federation.members
        return next((one.name for one in members if one.host_key and fingerprint(one.host_key) == found), "")

    def _login(self) -> Result:
        outcome = self._session()
        user = parse_address(self.door.address).user or self.door.site.name
        expected = f"a login as {user!r} with {fingerprint(self.door.site.member.public_key)}"
        if isinstance(outcome, ConfigError):
            return Result(FAILED, str(outcome), expected, f"{outcome}: {outcome.hint}.", ends=True)
        if isinstance(outcome, LoginError):
            found = str(outcome) if self.door.jump else f"the login as {user!r} was refused"
            advice = sentences.no_login(self._attempt(), found, self.door.site.member.public_key)
            return Result(FAILED, found, expected, advice, ends=True)
        if isinstance(outcome, PeerSyncError) and not _is_after_login(outcome):
            advice = sentences.no_session(self._attempt(), str(outcome))
            return Result(FAILED, str(outcome), expected, advice, ends=True)
        return Result(OK, f"as {user!r}")

    def _folder(self) -> Result:
        path = self.door.folder
        if path.is_dir():
            return Result(OK, str(path))
        advice = (
            f"The folder {path}, where {self.door.whose} puts its offers, is not there. Please see that the "
            "shared disk is mounted on this machine, and that the synchronisation runs."
        )
        return Result(FAILED, f"{path} is not there", "a folder", advice, ends=True)

    def _outbox(self) -> Result:
        outcome = self._session()
        if isinstance(outcome, PeerSyncError):
            if self.door.is_folder:
                advice = f"{outcome}: {outcome.hint}."
            else:
                advice = sentences.no_outbox(self._attempt(), str(outcome))
            return Result(FAILED, str(outcome), "a listing", advice, ends=True)
        self.newest = names.newest_whole(outcome)
        return Result(OK, f"{len(outcome)} files, newest whole offer: {self.newest or 'none'}")


def _keys(message: str) -> tuple[str, str] | None:
    """The two host keys in a refusal, of the server or of the jump host, as people compare them."""
    match = KEYS.search(message)
    return (_short(match[1]), _short(match[2])) if match else None


def _short(key: str) -> str:
    return fingerprint(key) if identity.is_public_line(key, HOST_KEY_TYPES) else key


def _is_after_login(error: PeerSyncError) -> bool:
    """Whether the server let us in and then showed nothing."""
    return isinstance(error, NotFoundError) or isinstance(error.__cause__, PermissionError)
