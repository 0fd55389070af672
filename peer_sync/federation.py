"""federation.toml: the same bytes at every site. Who takes part, how to reach them, whose keys count."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from peer_sync import names
from peer_sync.address import check_address, check_name
from peer_sync.errors import ConfigError
from peer_sync.identity import is_public_line
from peer_sync.tables import Table, bytes_of, nearest, toml_in

DEFAULT_MAX_PAYLOAD_BYTES = 2_000_000_000
WHENCE = (
    "one site makes it of all cards (nnunet-gml federation new) and sends it to the others; check the path"
)
MAX_VERSION = 1_000_000
MAX_CONTACT_CHARACTERS = 200
MAX_NAME_CHARACTERS = 200
FEDERATION_KEYS = ("name", "version", "seed", "plans_digest", "max_payload_bytes", "classes", "sites")
MEMBER_KEYS = ("name", "public_key", "address", "host_key", "labelled", "contact")


@dataclass(frozen=True)
class Member:
    """One site as all others see it.

    Attributes:
        name: ``[a-z0-9-]+``.
        public_key: ``ssh-ed25519 AAAA...``: it logs in with this key and signs its manifests with it.
        address: ``sftp://[user@]host:port[/path]`` or ``folder:path``: where its outbox can be read.
        host_key: the pinned key of the SFTP server at that address; empty with ``folder:``.
        labelled: the classes the site contours; None means every class.
        contact: whom to ask there, one line; may be empty.
    """

    name: str
    public_key: str
    address: str
    host_key: str = ""
    labelled: tuple[str, ...] | None = None
    contact: str = ""


@dataclass(frozen=True)
class Federation:
    """The whole file.

    Attributes:
        name: what the federation calls itself.
        seed: start of the schedule that draws peers.
        plans_digest: SHA-256 of the plans all sites share, 64 hex digits; empty until they are agreed on.
        max_payload_bytes: nothing larger is fetched from anyone.
        members: all sites, in the file's order.
        digest: SHA-256 of the file's bytes, 64 hex digits; stands in every manifest.
        path: where the file is; ``folder:`` addresses start from its folder.
        classes: names of all classes, in the order in which weights travel; each site may number them as it
            likes. None means that every site numbers them alike.
        version: grows by one with every change of the file.
    """

    name: str
    seed: int
    plans_digest: str
    max_payload_bytes: int
    members: tuple[Member, ...]
    digest: str
    path: Path
    classes: tuple[str, ...] | None = None
    version: int = 1

    def member(self, name: str) -> Member:
        """The site called ``name``. Raises `ConfigError`."""
        for member in self.members:
            if member.name == name:
                return member
        raise ConfigError(
            f"{self.path}: no site is called {name!r}",
            hint=f"sites of this federation: {', '.join(member.name for member in self.members)}",
        )

    def peers_of(self, name: str) -> tuple[str, ...]:
        """The names of all other sites, sorted."""
        self.member(name)
        return tuple(sorted(member.name for member in self.members if member.name != name))


def load_federation(path: Path | str) -> Federation:
    """Read and check federation.toml whole. Raises `ConfigError`."""
    path = Path(path).absolute()
    return parse_federation(bytes_of(path, hint=WHENCE), path)


def parse_federation(data: bytes, path: Path) -> Federation:
    """Check the bytes of the federation file ``path`` whole. Raises `ConfigError`."""
    table = Table(toml_in(data, path), path.name)
    table.only(FEDERATION_KEYS)
    federation = Federation(
        name=table.text("name", MAX_NAME_CHARACTERS, is_needed=True),
        seed=table.need("seed", int),
        plans_digest=table.get("plans_digest", str, ""),
        max_payload_bytes=table.get("max_payload_bytes", int, DEFAULT_MAX_PAYLOAD_BYTES),
        members=_members(table),
        digest=sha256(data).hexdigest(),
        path=path,
        classes=table.words("classes"),
        version=table.get("version", int, 1),
    )
    _check_federation(federation)
    return federation


def check_same(one: Federation, other: Federation, complaint: str) -> None:
    """Refuse two files that are not the same bytes.

    Raises:
        ConfigError: it begins with ``complaint``.
    """
    if one.digest != other.digest:
        raise ConfigError(
            f"{complaint}: {one.path} has version {one.version}, digest {one.digest}, "
            f"{other.path} has version {other.version}, digest {other.digest}",
            hint="send one file to everybody: it must be the same bytes at every site",
        )


def _members(table: Table) -> tuple[Member, ...]:
    rows = table.need("sites", list)
    if len(rows) < 2 or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(
            f"{table.where}: found {len(rows)}, expected at least two [[sites]] tables",
            hint="write one [[sites]] table for each site",
        )
    places = [f"{table.where}, site {row.get('name', number)!r}" for number, row in enumerate(rows, 1)]
    return tuple(read_member(Table(row, place)) for row, place in zip(rows, places, strict=True))


def read_member(table: Table) -> Member:
    """Check what one [[sites]] table, or a card, says about a site. Raises `ConfigError`."""
    table.only(MEMBER_KEYS)
    member = Member(
        name=table.need("name", str),
        public_key=table.need("public_key", str),
        address=table.need("address", str),
        host_key=table.get("host_key", str, ""),
        labelled=table.words("labelled"),
        contact=table.text("contact", MAX_CONTACT_CHARACTERS),
    )
    check_name(member.name, table.where)
    if not is_public_line(member.public_key, ("ssh-ed25519",)):
        raise ConfigError(
            f"{table.where}: public_key is {member.public_key!r}, expected 'ssh-ed25519 AAAA...'",
            hint="copy the line from the .pub file that nnunet-gml keygen wrote",
        )
    check_address(member.address, member.host_key, table.where)
    return member


def _check_federation(federation: Federation) -> None:
    where = federation.path.name
    if federation.plans_digest and not names.DIGEST.fullmatch(federation.plans_digest):
        raise ConfigError(
            f"{where}: plans_digest is {federation.plans_digest!r}, expected 64 hex digits",
            hint="nnunet-gml plans digest prints it; leave it out until all agree on the plans",
        )
    if not 1 <= federation.version <= MAX_VERSION:
        raise ConfigError(
            f"{where}: version is {federation.version}, expected 1 to {MAX_VERSION}",
            hint="it begins with 1 and grows by one with every change of the file",
        )
    if federation.max_payload_bytes < 1:
        raise ConfigError(
            f"{where}: max_payload_bytes is {federation.max_payload_bytes}, expected at least 1",
            hint="leave it out",
        )
    _check_classes(federation)
    _check_different(where, "name", [member.name for member in federation.members])
    keys = [" ".join(member.public_key.split()[:2]) for member in federation.members]
    _check_different(where, "public_key", keys)


def _check_classes(federation: Federation) -> None:
    """At least one class, and nobody contours one that is not among them."""
    classes, where = federation.classes, federation.path.name
    if classes is None:
        return
    if not classes:
        raise ConfigError(
            f"{where}: classes is an empty list, expected the names of all classes",
            hint="leave it out if every site numbers its labels alike",
        )
    for member in federation.members:
        for name in member.labelled or ():
            if name not in classes:
                raise ConfigError(
                    f"{where}, site {member.name!r}: labelled names {name!r}, which is not among classes; "
                    f"the nearest class is {nearest(name, classes)!r}",
                    hint=f"classes: {', '.join(classes)}",
                )


def _check_different(where: str, key: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(
                f"{where}: {values.count(value)} sites have the same {key} {value!r}, expected one each",
                hint=f"give each site its own {key}",
            )
