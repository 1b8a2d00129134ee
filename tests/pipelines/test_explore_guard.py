"""explore: who holds no token, comes under another name or from another site, is sent away; against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support_explore as support

QUESTION = json.dumps({"where": "true"}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Served]:
    """A small run, served."""
    folder = tmp_path_factory.mktemp("guard")
    support.make_run(support.write_pool(folder / "pool", 60), folder / "run", support.steps())
    with support.served(folder / "run") as found:
        yield found


def headers(server: support.Served, **more: str) -> dict[str, str]:
    """A good request's."""
    return {"Cookie": server.cookie, "Content-Type": "application/json"} | {
        n.replace("_", "-"): v for n, v in more.items()
    }


@pytest.mark.parametrize("path", ["/", "/explore.js", "/api/overview", "/api/thumbnail/one/0/240", "/nothing"])
@pytest.mark.parametrize("cookie", [None, "pairsieve_1=x", "pairsieve_{port}=wrong", "pairsieve_{port}=", '"=;;'])
def test_without_the_token_nothing_is_given(server: support.Served, path: str, cookie: str | None) -> None:
    """Neither a page, nor an answer, nor whether there is one."""
    given = {} if cookie is None else {"Cookie": cookie.format(port=server.port)}
    answer = server.ask("GET", path, given)
    assert answer.status == 403
    assert b"token" in answer.body
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "others",
    [
        '{ours}; state={{"theme": "dark"}}',
        'state={{"theme": "dark"}}; {ours}',
        'open="no end; {ours}',
        "a b@c=d e, f; {ours}",
        "g=\xe9; {ours}",
        "alone; {ours}",
        "{ours}; {name}=wrong",
        "{name}=wrong; {ours}",
    ],
)
def test_cookies_of_other_ports_do_not_hide_ours(server: support.Served, others: str) -> None:
    """A browser sends those of every program on this machine, well-formed or not, of our name or not."""
    name = f"pairsieve_{server.port}"
    answer = server.ask("GET", "/api/changed", {"Cookie": others.format(ours=server.cookie, name=name)})
    assert answer.status == 200


@pytest.mark.parametrize("query", ["?token=", "?token=wrong", "?token=%00", "?tok=x", "?token=%C3%A9"])
def test_a_wrong_token_gives_no_cookie(server: support.Served, query: str) -> None:
    """Guessing is no use."""
    answer = server.ask("GET", f"/{query}", {})
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


def test_the_token_is_for_the_page_only(server: support.Served) -> None:
    """In the address of an answer it counts for nothing, so that it does not get into logs and links."""
    token = server.address.rsplit("=", 1)[1]
    assert server.ask("GET", f"/api/overview?token={token}", {}).status == 403


def test_the_cookie_stays_with_the_site_and_out_of_scripts(server: support.Served) -> None:
    """HttpOnly, SameSite=Strict."""
    answer = server.ask("GET", server.address.split(f":{server.port}")[1], {})
    cookie = answer.headers["set-cookie"]
    assert answer.status == 200
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""]
)
def test_another_name_is_refused(server: support.Served, host: str) -> None:
    """A foreign name that resolves to this machine (DNS rebinding) reaches nothing, even with the cookie."""
    answer = server.ask("GET", "/api/overview", headers(server, Host=host.format(port=server.port)))
    assert answer.status == 421


def test_localhost_is_this_machine(server: support.Served) -> None:
    """The other name of loopback is fine."""
    answer = server.ask("GET", "/api/overview", headers(server, Host=f"localhost:{server.port}"))
    assert answer.status == 200


@pytest.mark.parametrize(
    "more",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_sites_are_refused(server: support.Served, more: dict[str, str]) -> None:
    """Even where a browser would send the cookie."""
    assert server.ask("POST", "/api/step", headers(server, **more), QUESTION).status == 403
    assert server.ask("GET", "/api/overview", headers(server, **more)).status == 403


def test_a_preflight_gets_no_leave(server: support.Served) -> None:
    """No CORS: no header that would allow anything."""
    more = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    answer = server.ask("OPTIONS", "/api/pairs", headers(server, **more))
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_form_is_no_question(server: support.Served, kind: str) -> None:
    """What a page elsewhere can send without asking is not taken."""
    assert server.ask("POST", "/api/step", headers(server) | {"Content-Type": kind}, QUESTION).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/explore.py",
        "/cli.py",
        "//etc/passwd",
        "/..%5c..%5cetc/passwd",
        "/api/thumbnail/one/../../etc/240",
        "/api/thumbnail/etc/0/240",
        "/docs",
        "/openapi.json",
    ],
)
def test_only_the_pages_own_files_are_served(server: support.Served, path: str) -> None:
    """Whatever the path, no other file is read."""
    answer = server.ask("GET", path, headers(server))
    assert answer.status in (404, 422)
    assert b"root:" not in answer.body


def test_a_large_body_is_refused(server: support.Served) -> None:
    """Before it is read."""
    body = json.dumps({"where": "x" * 70_000}).encode()
    assert server.ask("POST", "/api/pairs", headers(server), body).status == 413


def test_a_long_condition_is_one_line(server: support.Served) -> None:
    """Up to a limit it is parsed; beyond, said to be too long."""
    answer = server.ask("POST", "/api/pairs", headers(server), json.dumps({"where": "x" * 30_000}).encode())
    assert answer.status == 422
    assert answer.json["error"].startswith("where: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"where": 1}',
        b'{"where": "", "more": 1}',
        b"\xff\xfe",
        b'{"rows": -1}',
        b'{"run": 1}',
    ],
)
def test_what_is_no_question_is_one_line(server: support.Served, body: bytes) -> None:
    """A line that names the place, no traceback."""
    answer = server.ask("POST", "/api/pairs", headers(server), body)
    assert answer.status == 422
    assert "\n" not in answer.json["error"]


def test_every_answer_forbids_what_pages_may_do(server: support.Served) -> None:
    """Nothing from elsewhere, no frames, no sniffing, no referrer, nothing kept; refusals too."""
    for given in (headers(server), {}):
        answer = server.ask("GET", "/", given)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_only_loopback_listens(server: support.Served) -> None:
    """The address is this machine's own."""
    assert server.address.startswith("http://127.0.0.1:")


def test_an_image_that_is_none_is_not_handed_out(server: support.Served) -> None:
    """Markup and broken files that were stored as images never reach the browser; others come as new JPEGs."""
    for number in (6, 7):
        answer = server.ask("GET", f"/api/thumbnail/one/{number}/240", headers(server))
        assert (answer.status, answer.body) == (204, b"")
    answer = server.ask("GET", "/api/thumbnail/one/8/240", headers(server))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.body.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("number", ["-1", "60", "99999999999999999999999", "x"])
def test_a_pair_that_is_not_there_is_one_line(server: support.Served, number: str) -> None:
    """Whatever stands in its place."""
    answer = server.ask("GET", f"/api/story/one/{number}", headers(server))
    assert "error" in answer.json


def test_uids_are_exported_as_datacomp_has_them(server: support.Served, tmp_path: Path) -> None:
    """The subset file of the condition is the run's own where the condition is that of kept pairs."""
    answer = server.ask("GET", "/api/uids?run=one&kind=npy&where=dropped_by+IS+NULL", headers(server))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.body == (Path(server.session.one.loaded.root) / "subset.npy").read_bytes()
    lines = server.ask("GET", "/api/uids?run=one&kind=csv&where=dropped_by+IS+NULL", headers(server)).body.split()
    assert len(lines) == 1 + server.session.overview()["one"]["kept"]
