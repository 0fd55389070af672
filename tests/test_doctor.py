"""`nnunet-gml doctor`: every way in which two sites can fail to meet, with real servers where it matters."""

import errno
import json
import shutil
import socket
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from courier_kit import PLANS, build_sites, collect, free_port, offer, republish, running_server
from hostile_kit import hostile_server
from paramiko import sftp
from sshd_kit import SSHD, running_agent, running_sshd

from nnunet_gml.cli import main
from peer_sync.doctor import examine, incoming, offers, ourselves, outgoing, reach, rows
from peer_sync.doctor.findings import DIRECTIONS, VERDICTS, Check, Result, run_checks, within
from peer_sync.identity import fingerprint, generate_key
from peer_sync.mailbox import Mailbox
from peer_sync.manifest import write_time
from peer_sync.names import manifest_name
from peer_sync.server.embedded import Server
from peer_sync.server.process import ServerProcess
from peer_sync.site import Site, load_site
from peer_sync.storage import write_state

OUTGOING = ["name", "port", "round trip", "greeting", "host key", "login", "outbox"]
OFFER = ["clock", "manifest", "plans", "age", "read speed"]


def changed(site: Site, old: str, new: str) -> Site:
    """The same site after an edit of federation.toml."""
    path = site.federation.path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return load_site(site.path)


def unserved(site: Site) -> Site:
    """The same site without a server of its own."""
    lines = site.path.read_text().splitlines()
    site.path.write_text("\n".join(line for line in lines if not line.startswith(("listen", "host_key"))))
    return load_site(site.path)


def outgoing_of(site: Site, peer: str = "south") -> dict:
    """Findings on the way to a peer, by check."""
    return {f.check: f for f in examine(site, [peer]) if (f.peer, f.direction) == (peer, "outgoing")}


def self_of(site: Site) -> dict:
    """Findings about ourselves, by check."""
    return {f.check: f for f in examine(site, []) if f.direction == "self"}


def verdicts(findings: dict) -> dict[str, str]:
    return {name: finding.verdict for name, finding in findings.items()}


def assert_fails_at(findings: dict, check: str) -> None:
    """All before it fine (or not to be told), this one failed, all behind it skipped."""
    order = list(findings)
    number = order.index(check)
    assert findings[check].verdict == "failed"
    assert {findings[name].verdict for name in order[:number]} <= {"ok", "unknown"}
    assert {findings[name].verdict for name in order[number + 1 :]} <= {"skipped"}
    assert findings[check].advice and findings[check].found


@contextmanager
def listener(answer: bytes | None = None):
    """A port that takes connections and says ``answer``, then hangs up; None says nothing, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if answer is not None:
            import threading

            def serve():
                while True:
                    try:
                        sock, _ = server.accept()
                    except OSError:
                        return
                    with sock, suppress(OSError):  # who has read enough hangs up
                        sock.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def south_mail(served_sites):
    """South's mailbox, open as during a training."""
    mailbox = Mailbox(served_sites["south"])
    yield mailbox
    mailbox.close()


# All is well


def test_two_healthy_sites_have_nothing_to_complain_about(served_sites, monkeypatch):
    """Real servers, an offer each, both trainings running: all is ok, both ways, and the exit code is 0."""
    monkeypatch.setattr(ourselves, "SLOW_BYTES_PER_SECOND", 1)  # others use this disk, too
    mailboxes = [Mailbox(site) for site in served_sites.values()]
    servers = [ServerProcess(site) for site in served_sites.values()]
    try:
        for mailbox in mailboxes:
            offer(mailbox, b"w" * 3_000_000)
        examine(served_sites["south"])

        findings = examine(served_sites["north"])

        assert {f.verdict for f in findings} == {"ok"}, [f for f in findings if f.verdict != "ok"]
        assert [f.check for f in findings if f.direction == "outgoing"] == OUTGOING + OFFER
        assert main(["doctor", str(served_sites["north"].path)]) == 0
    finally:
        for server in servers:
            server.stop()
        for mailbox in mailboxes:
            mailbox.close()


def test_nothing_is_changed_and_nothing_is_left(served_sites, server, south_mail):
    """No file of either site is written, made or removed; no sequence is stored."""
    north = served_sites["north"]
    Mailbox(north).close()
    republish(south_mail, replace(offer(south_mail), plans_digest="c" * 64))

    def state() -> dict:
        return {
            path: path.read_bytes()
            for site in served_sites.values()
            for path in site.folder.rglob("*")
            if path.is_file()
        }

    before = state()
    examine(north)

    assert state() == before


def test_the_json_form_holds_every_finding_in_a_fixed_shape(served_sites, server, south_mail, capsys):
    """A list of objects with exactly these seven texts, whatever was found; the code says that all passed."""
    offer(south_mail)

    code = main(["doctor", str(served_sites["north"].path), "--json"])

    findings = json.loads(capsys.readouterr().out)
    keys = {"peer", "direction", "check", "verdict", "found", "expected", "advice"}
    for finding in findings:
        assert finding.keys() == keys
        assert all(isinstance(value, str) for value in finding.values())
        assert finding["verdict"] in VERDICTS and finding["direction"] in DIRECTIONS
        assert bool(finding["advice"]) == (finding["verdict"] in ("failed", "warning"))
        assert finding["found"]
    assert len({(f["peer"], f["direction"], f["check"]) for f in findings}) == len(findings)
    assert code == 0


def test_folders_need_no_network(sites, mailboxes):
    """Folder and outbox, then the offer."""
    for mailbox in mailboxes.values():
        offer(mailbox)

    found = outgoing_of(sites["north"])

    assert list(found) == ["folder", "outbox", *OFFER]
    assert verdicts(found) == {**dict.fromkeys(found, "ok"), "clock": "unknown"}


def test_only_the_peers_asked_for_are_looked_at(tmp_path, capsys):
    """``--peer`` may be given for several; one that does not exist is a mistake to be told."""
    north = build_sites(tmp_path, ("north", "south", "east"))["north"]

    assert {f.peer for f in examine(north, ["east", "east"])} == {"north", "east"}
    assert main(["doctor", str(north.path), "--peer", "west"]) == 2
    assert "its peers are east, south" in capsys.readouterr().err


# The way there


def test_a_closed_port_is_refused(served_sites):
    """Nobody listens: the sentence has both addresses, the port, our key, and what to allow."""
    north = served_sites["north"]
    port = served_sites["south"].listen[1]
    today = datetime.now(UTC)

    found = outgoing_of(north)

    assert_fails_at(found, "port")
    assert any(f"{day:%Y-%m-%d}" in found["port"].advice for day in (today, datetime.now(UTC)))
    assert "connection refused" in found["port"].found
    for part in (
        f"allow outgoing TCP connections from 127.0.0.1 to 127.0.0.1 port {port}",
        socket.gethostname(),
        fingerprint(north.member.public_key),
        "site 'south'",
    ):
        assert part in found["port"].advice


def test_a_port_that_drops_packets_is_a_timeout(served_sites, monkeypatch):
    """A full queue answers nothing at all, as a firewall does; the other words tell it from a refusal."""
    monkeypatch.setattr(reach, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        north = changed(served_sites["north"], f":{served_sites['south'].listen[1]}", f":{port}")

        found = outgoing_of(north)

        for sock in waiting:
            sock.close()
    assert_fails_at(found, "port")
    assert "no answer within 1 s" in found["port"].found
    assert "drops the packets" in found["port"].advice


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EHOSTUNREACH, reach.UNREACHABLE, "There is no route"),
        (errno.ENETUNREACH, reach.UNREACHABLE, "There is no route"),
        (errno.EPERM, reach.FORBIDDEN, "This machine itself forbids it"),
        (errno.EMFILE, reach.OTHER, "allow outgoing TCP"),
    ],
)
def test_each_kind_of_failure_has_its_own_advice(served_sites, monkeypatch, number, kind, words):
    """What the kernel says decides whom to ask."""

    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(number, "no luck")

    monkeypatch.setattr(reach.socket, "create_connection", refuse)

    found = outgoing_of(served_sites["north"])

    assert_fails_at(found, "port")
    assert words in found["port"].advice
    assert reach.connect(["192.0.2.7"], 22, 1)[0].kind == kind


def test_a_name_that_nobody_knows(served_sites):
    """Names that end in .invalid never resolve."""
    port = served_sites["south"].listen[1]
    north = changed(served_sites["north"], f"127.0.0.1:{port}", f"gml.south.invalid:{port}")

    found = outgoing_of(north)

    assert_fails_at(found, "name")
    assert "gml.south.invalid" in found["name"].found
    assert "known to this machine" in found["name"].advice


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "not a word within 1 s"),
        (b"", "not a word, then the end of the connection"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\x1b[2J",
            "no SSH greeting but 'HTTP/1.1 400 Bad Request\\r\\n\\x1b[2J'",
        ),
        (b"A" * 100_000, "no SSH greeting but 'AAAA"),
    ],
)
def test_a_port_without_ssh_behind_it(served_sites, monkeypatch, answer, words):
    """A listener that never speaks, one that hangs up, another protocol, a flood."""
    monkeypatch.setattr(reach, "GREETING_SECONDS", 1.0)
    with listener(answer) as port:
        north = changed(served_sites["north"], f":{served_sites['south'].listen[1]}", f":{port}")

        found = outgoing_of(north)

    assert_fails_at(found, "greeting")
    assert words in found["greeting"].found
    assert "Please let SSH through unchanged" in found["greeting"].advice


def test_lines_before_the_greeting_are_allowed(served_sites):
    """As RFC 4253 lets a server do."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"Welcome\r\nSSH-2.0-x\r\n")

        assert reach.greeting(right, 5) == "SSH-2.0-x"


def test_another_host_key_is_named_by_both_fingerprints(served_sites, server, tmp_path):
    """The pinned one and the one that was shown; nothing goes on after it."""
    shown = served_sites["south"].member.host_key
    pinned = generate_key(tmp_path / "pinned")
    north = changed(served_sites["north"], shown, pinned)

    found = outgoing_of(north)

    assert_fails_at(found, "host key")
    assert found["host key"].found == fingerprint(shown)
    assert found["host key"].expected == fingerprint(pinned)
    assert fingerprint(shown) in found["host key"].advice and "nothing was sent" in found["host key"].advice


def test_the_host_key_of_another_site_is_named(served_sites, server):
    """North's address is written where south's belongs: the sentence says whose key that is."""
    north, south = served_sites["north"], served_sites["south"]
    with running_server(Server(north)):
        north = changed(north, f":{south.listen[1]}", f":{north.listen[1]}")

        found = outgoing_of(north)

    assert_fails_at(found, "host key")
    assert "which is that of site 'north'" in found["host key"].advice
    assert "compare address and host key with the cards" in found["host key"].advice


def test_where_nobody_can_dial_in_a_relay_is_the_way(served_sites):
    """A laptop behind NAT: told to whoever cannot reach it, and to the laptop that nobody came to."""
    found = outgoing_of(served_sites["north"])
    assert "the right address (nnunet-gml federation show)?" in found["port"].advice
    waited = incoming.last_login(served_sites["north"], "south")

    for advice in (found["port"].advice, waited.advice):
        assert "NAT, a laptop" in advice and "relay" in advice and "docs/how-to/network.md" in advice


def test_a_key_that_the_other_side_does_not_know(served_sites, tmp_path):
    """South has an older federation.toml: the host key is fine, the login is not."""
    north, south = served_sites["north"], served_sites["south"]
    stranger = generate_key(tmp_path / "stranger")
    with running_server(Server(changed(south, north.member.public_key, stranger))):
        north = changed(north, stranger, north.member.public_key)

        found = outgoing_of(north)

    assert_fails_at(found, "login")
    assert found["host key"].verdict == "ok"
    assert north.member.public_key in found["login"].advice
    assert "the login as 'north' was refused" in found["login"].advice


def test_a_server_that_hangs_after_the_login_is_cut_off(served_sites, monkeypatch):
    """It lets us in and never answers: the check ends on its own."""
    monkeypatch.setattr(outgoing, "SESSION_SECONDS", 2.0)
    south = served_sites["south"]
    with hostile_server(str(south.host_key)) as port:
        north = changed(served_sites["north"], f":{south.listen[1]}", f":{port}")

        found = outgoing_of(north)

    assert_fails_at(found, "login")
    assert "no end within 2 s" in found["login"].found


def test_an_outbox_that_may_not_be_read(served_sites):
    """The login works, the listing is denied: that is another desk's business than a login."""

    def denied(session, kind, number):
        session.send(sftp.CMD_STATUS, number, sftp.SFTP_PERMISSION_DENIED, "no", "")

    south = served_sites["south"]
    with hostile_server(str(south.host_key), denied) as port:
        found = outgoing_of(changed(served_sites["north"], f":{south.listen[1]}", f":{port}"))

    assert_fails_at(found, "outbox")
    assert "this user may read it" in found["outbox"].advice


def test_a_folder_that_is_not_mounted(sites):
    """The path is named; what is behind it is skipped."""
    found = outgoing_of(sites["north"])

    assert_fails_at(found, "folder")
    assert str(sites["south"].folder / "outbox") in found["folder"].advice


@pytest.mark.skipif(SSHD is None, reason="no sshd on this machine")
class TestSshd:
    """A peer whose outbox a stock OpenSSH server shows."""

    @pytest.fixture
    def sshd(self, tmp_path):
        with running_sshd(tmp_path / "sshd") as running:
            yield running

    def site(self, served_sites, sshd, folder, tmp_path, login=True) -> Site:
        north, south = served_sites["north"], served_sites["south"]
        if login:
            (tmp_path / "sshd" / "authorized").write_text(north.member.public_key + "\n")
        north = changed(north, south.member.host_key, sshd.host_key)
        return changed(north, south.member.address, sshd.address(folder))

    def test_a_healthy_one(self, served_sites, sshd, tmp_path):
        """All but the clock, which it does not tell."""
        south = served_sites["south"]
        (south.folder / "outbox").mkdir(parents=True)
        north = self.site(served_sites, sshd, south.folder / "outbox", tmp_path)
        mailbox = Mailbox(unserved(south))
        offer(mailbox)
        mailbox.close()

        found = outgoing_of(north)

        assert verdicts(found) == {**dict.fromkeys(OUTGOING + OFFER, "ok"), "clock": "unknown"}
        assert "OpenSSH" in found["greeting"].found

    def test_a_folder_that_is_not_there(self, served_sites, sshd, tmp_path):
        """The login works, and the sentence says so."""
        found = outgoing_of(self.site(served_sites, sshd, tmp_path / "nowhere", tmp_path))

        assert_fails_at(found, "outbox")
        assert "the login works" in found["outbox"].advice

    def test_a_key_that_is_not_authorized(self, served_sites, sshd, tmp_path):
        """The sentence has the line for authorized_keys."""
        found = outgoing_of(self.site(served_sites, sshd, tmp_path, tmp_path, login=False))

        assert_fails_at(found, "login")
        assert served_sites["north"].member.public_key in found["login"].advice
        assert "authorized_keys" in found["login"].advice

    def test_a_peer_behind_a_jump_host(self, served_sites, sshd, server, tmp_path):
        """Dialled is the jump host; the clock behind it can be read, too."""
        found = outgoing_of(self.jumping(served_sites, sshd, tmp_path))

        assert verdicts(found) == {
            **dict.fromkeys(OUTGOING, "ok"),
            "clock": "ok",
            "manifest": "warning",
            **dict.fromkeys(OFFER[2:], "skipped"),
        }
        assert f"port {sshd.port} answers" in found["port"].found

    def test_a_jump_host_that_does_not_know_us(self, served_sites, sshd, server, tmp_path):
        """The sentence tells which of the two refused, and whom to ask."""
        found = outgoing_of(self.jumping(served_sites, sshd, tmp_path, login=False))

        assert_fails_at(found, "login")
        assert "the jump host" in found["login"].found
        assert "or whoever runs the jump host" in found["login"].advice

    @staticmethod
    def jumping(served_sites, sshd, tmp_path, login=True) -> Site:
        north = served_sites["north"]
        if login:
            (tmp_path / "sshd" / "authorized").write_text(north.member.public_key + "\n")
        address = sshd.address(tmp_path).removesuffix(str(tmp_path))
        text = f'\n[jump]\naddress = "{address}"\nhost_key = "{sshd.host_key}"\npeers = ["south"]\n'
        north.path.write_text(north.path.read_text() + text)
        return load_site(north.path)

    @pytest.mark.parametrize("is_pinned", [True, False])
    def test_the_systems_ssh_as_carrier(self, served_sites, sshd, tmp_path, is_pinned):
        """Healthy, and with another host key, whose fingerprint is told as well."""
        outbox = served_sites["south"].folder / "outbox"
        outbox.mkdir(parents=True)
        north = self.site(served_sites, sshd, outbox, tmp_path)
        north.path.write_text(north.path.read_text() + 'carrier = "ssh"\n')
        if not is_pinned:
            changed(north, sshd.host_key, generate_key(tmp_path / "pinned"))

        found = outgoing_of(load_site(north.path))

        if is_pinned:
            assert {found[name].verdict for name in OUTGOING} == {"ok"}
        else:
            assert_fails_at(found, "host key")
            assert found["host key"].found in fingerprint(sshd.host_key)
            assert found["host key"].expected == fingerprint(found_line(tmp_path / "pinned.pub"))


def found_line(path) -> str:
    return path.read_text().strip()


# What lies there


def test_a_peer_that_never_offered_is_no_failure(served_sites, server):
    """A federation on its first day: a warning, and nothing to judge."""
    found = outgoing_of(served_sites["north"])

    assert found["outbox"].verdict == "ok"
    assert found["clock"].verdict == "ok"
    assert found["manifest"].verdict == "warning" and "nothing is offered yet" in found["manifest"].found
    assert "Before its first training that is as it should be" in found["manifest"].advice
    assert {found[name].verdict for name in OFFER[2:]} == {"skipped"}


def test_a_changed_manifest_is_refused_by_its_rule(sites, south):
    """One byte of the manifest that is not what was signed."""
    manifest = offer(south)
    path = south.outbox / manifest_name(1)
    path.write_bytes(path.read_bytes().replace(b'"epoch":50', b'"epoch":51'))

    found = outgoing_of(sites["north"])

    assert_fails_at(found, "manifest")
    assert manifest.epoch == 50 and "rule 'signature'" in found["manifest"].advice


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"federation": "d" * 64}, "federation"),
        ({"site": "north"}, "site"),
        ({"recipients": ("west",)}, "recipients"),
        ({"payload_bytes": 3 * 10**9, "weights_bytes": 3 * 10**9}, "size"),
    ],
)
def test_every_rule_of_the_manifest_counts(sites, south, changes, rule):
    """Signed by south, and yet nothing that we would take."""
    republish(south, replace(offer(south), **changes))

    found = outgoing_of(sites["north"])

    assert_fails_at(found, "manifest")
    assert f"rule {rule!r}" in found["manifest"].advice


def test_encrypted_weights_need_a_key_file(sites, south, tmp_path):
    """A key that only the agent has can log in and sign, but nothing decrypts with it."""
    manifest = offer(south)
    payload = f"{manifest.payload}.age"
    (south.outbox / manifest.payload).rename(south.outbox / payload)
    republish(south, replace(manifest, encryption="age", payload=payload))

    assert outgoing_of(sites["north"])["manifest"].verdict == "ok"
    sites["north"].private_key.rename(tmp_path / "elsewhere")
    assert outgoing_of(sites["north"])["manifest"].verdict == "warning"


def test_other_plans_fail_and_the_rest_is_still_looked_at(sites, south):
    """Both digests are told."""
    republish(south, replace(offer(south), plans_digest="c" * 64))

    found = outgoing_of(sites["north"])

    assert verdicts(found) == {**dict.fromkeys(found, "ok"), "plans": "failed", "clock": "unknown"}
    assert "c" * 64 in found["plans"].advice and PLANS in found["plans"].advice


@pytest.mark.parametrize(
    ("created_days", "expires_days", "verdict", "words"),
    [
        (-40, -10, "failed", "expired 10 d ago"),
        (-8, 22, "warning", "8 d ago: stale"),
        (-6, 24, "ok", "6 d ago"),
    ],
)
def test_the_age_of_an_offer(sites, south, created_days, expires_days, verdict, words):
    """Expired is a failure, older than seven days a warning."""
    now = datetime.now(UTC)
    times = {
        "created": write_time(now + timedelta(days=created_days)),
        "expires": write_time(now + timedelta(days=expires_days, hours=-1)),
    }
    republish(south, replace(offer(south), **times))

    age = outgoing_of(sites["north"])["age"]

    assert age.verdict == verdict and words in age.found


def test_an_offer_from_the_future_tells_of_a_clock(sites, south):
    """Where no server tells its time, ``created`` does: an hour ahead."""
    created = write_time(datetime.now(UTC) + timedelta(hours=2, seconds=30))
    republish(south, replace(offer(south), created=created))

    found = outgoing_of(sites["north"])

    assert found["clock"].verdict == "unknown"
    assert found["age"].verdict == "warning"
    assert found["age"].found == "made in the future: its clock is 2 h ahead of ours"
    assert "time server" in found["age"].advice


def test_a_clock_is_looked_at_before_there_is_an_offer(served_sites, monkeypatch):
    """A day behind, as seen before the first training."""
    from peer_sync.server import answering

    class Yesterday:
        @staticmethod
        def time() -> float:
            return (datetime.now(UTC) - timedelta(days=1)).timestamp()

        monotonic = staticmethod(answering.time.monotonic)

    monkeypatch.setattr(answering, "time", Yesterday)
    with running_server(Server(served_sites["south"])):
        found = outgoing_of(served_sites["north"])

    assert found["clock"].verdict == "warning" and found["clock"].found == "24 h behind ours"
    assert "The clock of site 'south' is 24 h behind ours" in found["clock"].advice


@pytest.mark.parametrize(
    ("ahead_seconds", "verdict", "words"),
    [(0, "ok", "s apart"), (-7250, "warning", "2 h behind ours"), (7250, "warning", "2 h ahead of ours")],
)
def test_our_own_server_tells_its_clock(served_sites, south_mail, monkeypatch, ahead_seconds, verdict, words):
    """The skew is measured at the server, whatever the offer states."""
    from peer_sync.server import answering

    class Clock:
        @staticmethod
        def time() -> float:
            return datetime.now(UTC).timestamp() + ahead_seconds

        monotonic = staticmethod(answering.time.monotonic)

    offer(south_mail)
    monkeypatch.setattr(answering, "time", Clock)
    with running_server(Server(served_sites["south"])):
        clock = outgoing_of(served_sites["north"])["clock"]

    assert clock.verdict == verdict and words in clock.found


def test_an_old_offer_that_was_put_back_is_found(sites, south):
    """Number 1 is shown after number 2 was judged; looking does not make it judged."""
    offer(south)
    (sites["north"].folder / "state").mkdir(parents=True, exist_ok=True)
    write_state(sites["north"].folder / "state" / "peer-south.json", {"accepted": 2})

    found = outgoing_of(sites["north"])

    assert_fails_at(found, "manifest")
    assert "rule 'sequence'" in found["manifest"].advice


def test_an_offer_that_was_judged_before_is_still_a_good_one(north, south):
    """The usual state between two rounds."""
    offer(south)
    north.accept(collect(north, south))

    assert outgoing_of(north.site)["manifest"].verdict == "ok"


def test_a_slow_line_is_told_before_it_costs_a_round(sites, south, monkeypatch):
    """Under 64 KiB/s a transfer would be cut off."""
    offer(south)
    moments = iter(range(0, 10_000, 100))
    monkeypatch.setattr(offers, "time", type("Time", (), {"monotonic": lambda: next(moments)}))

    speed = outgoing_of(sites["north"])["read speed"]

    assert speed.verdict == "warning" and "64 KiB/s" in speed.advice


def test_only_the_end_of_a_payload_is_fetched(served_sites, south_mail):
    """A payload of 5 MB: 1 MiB crosses the network, as the server's own log says."""
    offer(south_mail, b"x" * 5_000_000)
    south = served_sites["south"]
    server = ServerProcess(south)
    try:
        speed = outgoing_of(served_sites["north"])["read speed"]
    finally:
        server.stop()

    assert speed.found.startswith("1.05 MB in")
    assert ".safetensors: 1048576 bytes" in (south.folder / "server.log").read_text()


# The way back


def test_who_came_is_read_from_the_access_log(served_sites):
    """South's doctor logs in at north's real server; north then knows when, and from where."""
    north, south = served_sites["north"], served_sites["south"]
    server = ServerProcess(north)
    try:
        outgoing_of(south, "north")
    finally:
        server.stop()

    login = next(f for f in examine(north, ["south"]) if f.direction == "incoming")

    assert login.verdict == "ok" and "from 127.0.0.1" in login.found


def test_a_peer_that_never_came(served_sites):
    """The sentence says which port has to be let in."""
    north = served_sites["north"]

    login = next(f for f in examine(north, ["south"]) if f.direction == "incoming")

    assert login.verdict == "warning" and "never" in login.found
    assert f"allow incoming TCP connections from there to {north.member.address}" in login.advice


def test_a_login_of_long_ago_is_a_warning_and_older_logs_count(served_sites):
    """The log was rotated; a line about a stranger, or a damaged one, is no login."""
    north = served_sites["north"]
    north.folder.mkdir()
    old = write_time(datetime.now(UTC) - timedelta(days=9))
    (north.folder / "server.log.1").write_text(f"{old} 192.0.2.7 south: logged in\n")
    (north.folder / "server.log").write_bytes(
        b"yesterday 192.0.2.7 south: logged in\n\xff\xfe\n2026-11-22T00:00:00Z 192.0.2.8 stranger refused\n"
    )

    result = incoming.last_login(north, "south")

    assert result.verdict == "warning" and result.found == "last login 9 d ago, from 192.0.2.7"


def test_without_a_server_of_ours_nobody_knows_who_came(sites):
    """A folder, or somebody else's sshd."""
    assert incoming.last_login(sites["north"], "south").verdict == "unknown"


# Ourselves


def test_without_a_running_server_the_own_address_is_not_tried(served_sites):
    """Before a training that is no failure; it is said, once."""
    found = self_of(served_sites["north"])

    assert found["server"].verdict == "warning" and "nnunet-gml serve" in found["server"].advice
    assert {f.verdict for name, f in found.items() if name.startswith("own ")} == {"skipped"}
    assert main(["doctor", str(served_sites["north"].path), "--peer", "south"]) == 1


def test_the_own_address_with_another_host_key_fails(served_sites, tmp_path):
    """federation.toml has the key of an earlier installation: no peer would talk to us."""
    south = served_sites["south"]
    with running_server(Server(south)):
        pinned = generate_key(tmp_path / "pinned")
        text = south.federation.path.read_text().replace(south.member.host_key, pinned)
        south.federation.path.write_text(text)
        found = self_of(unserved(south))

    assert found["own host key"].verdict == "failed"
    assert found["own port"].verdict == "ok"


def test_an_own_address_that_cannot_be_reached_from_here_is_forgiven(served_sites):
    """Many networks let nobody reach their own outside address: a warning that says so."""
    south = served_sites["south"]
    with running_server(Server(south)):
        port = free_port()
        south = changed(south, f":{south.listen[1]}", f":{port}")
        found = self_of(south)

    assert found["server"].verdict == "ok"
    assert found["own port"].verdict == "warning"
    assert found["own port"].advice.startswith("Seen from this machine itself")


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent on this machine")
def test_a_key_from_the_agent_signs_and_logs_in(served_sites, server, tmp_path_factory, monkeypatch):
    """With the key in the agent all is well; without it, the finding says what to type."""
    north = served_sites["north"]
    with running_agent(tmp_path_factory.mktemp("a"), "") as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        kept = north.private_key.rename(tmp_path_factory.mktemp("kept") / "key")

        without, unknown = self_of(north)["key"], outgoing_of(north)["login"]
        agent.run(kept)
        held, known = self_of(north)["key"], outgoing_of(north)["login"]

    assert without.verdict == "failed" and "ssh-add" in without.advice
    assert unknown.verdict == "failed" and "ssh-add" in unknown.advice
    assert held.verdict == "ok" and "from ssh-agent" in held.found
    assert known.verdict == "ok"


def test_a_damaged_state_file_is_found(sites, north):
    """A training would stop with it."""
    (north.state / "peer-south.json").write_text("{")

    assert self_of(sites["north"])["state"].verdict == "failed"


def test_an_own_offer_with_a_missing_end_is_found(sites, north):
    """The manifest is good, the file is not as long as it says."""
    manifest = offer(north)
    (north.outbox / manifest.payload).write_bytes(b"weig")

    found = self_of(sites["north"])

    assert found["manifest"].verdict == "ok"
    assert found["payload"].verdict == "failed" and "4 bytes" in found["payload"].found


def test_an_own_offer_for_another_federation_is_found(sites, north):
    """federation.toml was changed since: all peers would refuse it."""
    offer(north)

    found = self_of(changed(sites["north"], "seed = 7", "seed = 8"))

    assert found["manifest"].verdict == "failed" and "rule 'federation'" in found["manifest"].advice


def test_a_relay_that_lags_behind_is_found(sites, north, tmp_path):
    """The outbox has number 2, the relay number 1."""
    (tmp_path / "relay").mkdir()
    offer(north)
    for path in north.outbox.iterdir():
        shutil.copy(path, tmp_path / "relay")
    offer(north)
    sites["north"].path.write_text(sites["north"].path.read_text() + 'relay = "folder:relay"\n')

    found = self_of(load_site(sites["north"].path))

    assert found["relay folder"].verdict == "ok"
    assert found["relay newest"].verdict == "warning" and found["relay newest"].found == "number 1"


def test_a_full_disk_is_a_failure_before_it_is_one(sites, north, monkeypatch):
    """10 MB are free: not enough for an offer and 64 MiB; nothing is written to measure the speed."""
    offer(north)
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr(ourselves.shutil, "disk_usage", lambda _: usage)

    found = self_of(sites["north"])

    assert found["disk"].verdict == "failed" and "0.0 GB free" in found["disk"].found
    assert found["write speed"].verdict == "warning"


def test_a_folder_that_is_not_there_yet_is_fine(sites):
    """The first training makes it."""
    assert self_of(sites["north"])["folder"].found.endswith("it will be made")


# Ways around


def test_a_jump_host_is_what_is_dialled_and_named(served_sites, tmp_path):
    """Its port is closed: the sentence says that it is the jump host on the way to the peer."""
    port = free_port()
    line = generate_key(tmp_path / "jump")
    south = served_sites["south"]
    text = f'\n[jump]\naddress = "sftp://me@127.0.0.1:{port}"\nhost_key = "{line}"\npeers = ["south"]\n'
    served_sites["north"].path.write_text(served_sites["north"].path.read_text() + text)

    found = outgoing_of(load_site(served_sites["north"].path))

    assert_fails_at(found, "port")
    assert f"127.0.0.1 port {port}" in found["port"].found
    assert f"as the jump host on the way to {south.member.address}" in found["port"].advice


def test_the_systems_ssh_may_know_another_way(served_sites):
    """With carrier "ssh" a closed port is only a warning; what decides is the login."""
    path = served_sites["north"].path
    path.write_text(path.read_text() + 'carrier = "ssh"\n')

    found = outgoing_of(load_site(path))

    assert found["port"].verdict == "warning"
    assert found["greeting"].verdict == "unknown"
    assert found["login"].verdict == "failed"
    assert "by the system's own ssh" in found["login"].advice


# The order of things


def test_a_check_that_hangs_ends_and_ends_its_row():
    """A name server or a disk that never answers."""
    import threading

    cut = threading.Event()
    hangs = Check("hangs", lambda: Result("ok", str(cut.wait(30))), cut.set)

    findings = run_checks("south", "outgoing", [hangs, Check("next", lambda: Result("ok", "fine"))], 0.2)

    assert [finding.verdict for finding in findings] == ["failed", "skipped"]
    assert findings[1].found == "because of hangs"
    assert cut.is_set()


def test_a_disk_of_ours_that_fails_is_a_finding():
    """No place for a temporary file: said in words, and the row ends."""

    def full() -> Result:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")

    (finding,) = run_checks("south", "outgoing", [Check("manifest", full)])

    assert finding.verdict == "failed" and finding.found == "/tmp/x: No space left on device"


def test_an_error_of_our_own_is_not_swallowed():
    """A bug shows its traceback."""

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        within(5, broken)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_report_fits_the_terminal(served_sites, server, capsys, monkeypatch, columns):
    """Verdicts in words, skipped checks in one line, advice at the end, nothing wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))

    main(["doctor", str(served_sites["south"].path)])

    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns
    assert "\x1b" not in said
    words = " ".join(said.split())
    assert "FAILED port" in words and "FAILED: north, port" in words
    assert "round trip, greeting, host key, login" in words
    assert words.rstrip().endswith("skipped")


def test_everything_that_may_hang_is_bounded():
    """The sum of what one check may take stays within its own bound."""
    assert reach.CONNECT_SECONDS < 20 and reach.GREETING_SECONDS < 20
    assert outgoing.SESSION_SECONDS < 20 and rows.LOCAL_SECONDS < 20
