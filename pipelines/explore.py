"""``pairsieve explore``: a finished run, or two, in a local web page.

The light columns of every pair are copied into a DuckDB file in a temporary folder, which goes when the explorer ends:
about 6 µs a pair on a core and 90 bytes a pair, captions included; the run itself is only read.
"""

import contextlib
import hashlib
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import duckdb
import uvicorn

from pairsieve.pipelines import catalog, machine
from pairsieve.pipelines.explore_compare import Comparison, match
from pairsieve.pipelines.explore_ladder import Ladder
from pairsieve.pipelines.explore_query import Pairs, Questions, connect
from pairsieve.pipelines.explore_session import RunSession, Session
from pairsieve.pipelines.explore_table import LoadedRun, is_keyed, key_table, load_run
from pairsieve.pipelines.explore_web import application
from pairsieve.pipelines.near import no_run
from pairsieve.pipelines.pools import stamp as file_stamp
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.search_columns import column_of
from pairsieve.pipelines.sql import quote
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.workshop import silence
from pairsieve.schemas.errors import PairsieveError, UserError

ADDRESS = "127.0.0.1"
_MEMORY_SHARE = 0.3


@contextmanager
def opened(root: str, other: str | None, progress: Reporter) -> Iterator[Session]:
    """The session over a run, and another one to compare it with; raises ``UserError`` where one is not finished."""
    has_changed = _watched([root] if other is None else [root, other])
    with tempfile.TemporaryDirectory(prefix="pairsieve-explore-") as folder, ExitStack() as stack:
        file = Path(folder) / "explore.duckdb"
        limit = max(1024, int(machine.memory() * _MEMORY_SHARE) >> 20)
        with duckdb.connect(str(file), config={"memory_limit": f"{limit}MB"}) as con:
            silence(con)
            one = load_run(root, f"{folder}/one", con, "one", progress)
            second = None if other is None else load_run(other, f"{folder}/other", con, "other", progress)
            ladder = Ladder(con, one)
            for loaded in (one, second):
                _drop_keys(con, loaded)
            if second is not None:
                with progress.stage("match the runs", one.rows):
                    match(con, "one", "other")
        con = stack.enter_context(connect(file))
        ladder.reconnect(con)
        session = _session(con, one, second, ladder, has_changed)
        with progress.stage("prepare thresholds", len(one.plan.steps)) as stage:
            session.one.moves.prepare(stage)
        yield session


def _drop_keys(con: duckdb.DuckDBPyConnection, loaded: LoadedRun | None) -> None:
    for step in loaded.plan.steps if loaded is not None else ():
        if is_keyed(step):
            con.execute(f"DROP TABLE {quote(key_table(loaded.table if loaded else '', step))}")


def _session(
    con: duckdb.DuckDBPyConnection,
    one: LoadedRun,
    other: LoadedRun | None,
    ladder: Ladder,
    has_changed: Callable[[], bool],
) -> Session:
    first = RunSession(one, Pairs(con, one.table, one.types), ladder, _embeddings(one))
    if other is None:
        return Session(first, has_changed=has_changed)
    second = RunSession(other, Pairs(con, other.table, other.types), None, None)
    types, tables = {"one": one.types, "other": other.types}, {"one": one.table, "other": other.table}
    return Session(first, second, Comparison(Questions(con), types, tables), has_changed)


def _embeddings(loaded: LoadedRun) -> str | None:
    """The column of embeddings that a text search would use; None where there is none, or several."""
    with contextlib.suppress(PairsieveError):
        return column_of(Store(loaded.root), manifest(Store(loaded.root)), None).name
    return None


def _watched(roots: Sequence[str]) -> Callable[[], bool]:
    """Whether a run on disk is no longer what it is now; raises as ``stamp`` at once."""
    stamps = [stamp(root) for root in roots]

    def has_changed() -> bool:
        try:
            return stamps != [stamp(root) for root in roots]
        except (PairsieveError, OSError):  # it is under way, or gone
            return True

    return has_changed


def stamp(root: str) -> str:
    """What tells a run from one that was run again; raises ``UserError`` where there is no finished run."""
    store = Store(root)
    if not store.exists(catalog.CATALOG):
        raise no_run(root)
    return hashlib.sha256(
        store.read("run.yaml") + file_stamp(store.fs, store.path(catalog.CATALOG)).encode()
    ).hexdigest()


def listen(port: int) -> socket.socket:
    """A socket on loopback; 0: any free port.  Raises ``UserError`` where it is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((ADDRESS, port))
    except OSError as error:
        sock.close()
        raise UserError(f"--port {port}: {error.strerror or error}; choose another, or 0 for any free one") from None
    sock.listen(128)
    return sock


def serve(session: Session, port: int, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C; ``ready`` is given the address with its token."""
    with listen(port) as sock:
        server, address = prepared(session, sock)
        ready(address)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[sock])


def prepared(session: Session, sock: socket.socket) -> tuple[uvicorn.Server, str]:
    """A server for a socket, and the address to open."""
    token, port = secrets.token_urlsafe(24), sock.getsockname()[1]
    settings = uvicorn.Config(
        application(session, token, port), log_level="warning", access_log=False, server_header=False, ws="none"
    )
    return uvicorn.Server(settings), f"http://{ADDRESS}:{port}/?token={token}"
