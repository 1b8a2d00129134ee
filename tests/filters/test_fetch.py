"""Fetching: every page ends in a body or a code, within its limits, and nothing private is reached."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters._addresses import Guard, public
from pairsieve.filters._client import fetch_all, fetch_each
from pairsieve.filters._codes import Code, status
from pairsieve.filters._fetch import Fetched, Policy, parse
from pairsieve.filters._robots import opted_out

POLICY = Policy(timeout=5, max_bytes=1_000_000, networks=("127.0.0.1/32",))
DISALLOWED = POLICY.disallowed


class Site(Protocol):
    """The server of conftest.py."""

    hits: Counter[str]
    jpeg: bytes

    def url(self, path: str, host: str = ...) -> str:
        """The URL of a page."""


def fetch(url: str | None, policy: Policy = POLICY) -> Fetched:
    """The outcome of one URL."""
    (fetched,) = fetch_all([url], policy)
    return fetched


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/photo.jpg", Code.SUCCESS),
        ("/tiny.gif", Code.SUCCESS),
        ("/missing", Code.HTTP_404),
        ("/forbidden", Code.HTTP_4XX),
        ("/busy", Code.HTTP_429),
        ("/error", Code.HTTP_5XX),
        ("/nowhere", Code.HTTP_3XX),
        ("/empty", Code.EMPTY_BODY),
        ("/page.jpg", Code.NOT_AN_IMAGE),
        ("/scan.tiff", Code.IMAGE_FORMAT_REFUSED),
        ("/gzip.jpg", Code.COMPRESSED_BODY),
        ("/cut", Code.CONNECTION_FAILED),
        ("/hang-up", Code.CONNECTION_FAILED),
        ("/endless", Code.BODY_TOO_LARGE),
        ("/announced", Code.BODY_TOO_LARGE),
        ("/chain?left=5", Code.SUCCESS),
        ("/chain?left=6", Code.TOO_MANY_REDIRECTS),
        ("/redirect?to=/redirect%3Fto%3D/photo.jpg", Code.SUCCESS),
        ("/redirect?to=file:///etc/hostname", Code.BAD_SCHEME),
        ("/redirect?to=ftp://127.0.0.1/x", Code.BAD_SCHEME),
        ("/redirect?to=http://[::1", Code.BAD_URL),
        ("/redirect?to=http://169.254.169.254/latest/meta-data", Code.PRIVATE_ADDRESS),
    ],
)
def test_page_has_its_code(site: Site, path: str, code: Code) -> None:
    """What a server does is told by a code of the closed set."""
    fetched = fetch(site.url(path))
    assert fetched.code is code
    assert (fetched.body is None) == (code is not Code.SUCCESS)
    assert (fetched.error_message is None) == (code is Code.SUCCESS)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (None, Code.NULL_URL),
        ("", Code.NULL_URL),
        (" \n", Code.NULL_URL),
        ("example.com/a.jpg", Code.BAD_URL),
        ("http://", Code.BAD_URL),
        ("http:///a.jpg", Code.BAD_URL),
        ("http://[::1", Code.BAD_URL),
        ("http://127.0.0.1:99999/", Code.BAD_URL),
        ("http://127.0.0.1:0/", Code.BAD_URL),
        ("http://127.0.0.1:x/", Code.BAD_URL),
        ("http://user:pass@127.0.0.1/", Code.BAD_URL),
        ("http://user@127.0.0.1/", Code.BAD_URL),
        ("http://127.0.0.1/\0", Code.BAD_URL),
        ("http://127.0.0.1/a\r\nHost: b", Code.BAD_URL),
        ("http://127.0.0.1/\ud800", Code.BAD_URL),
        ("http://127.0.0.1/" + "a" * 100_000, Code.BAD_URL),
        ("http://" + "a" * 300 + ".example/", Code.BAD_URL),
        ("http://a..b/", Code.BAD_URL),
        ("http://2130706433/", Code.BAD_URL),
        ("file:///etc/hostname", Code.BAD_SCHEME),
        ("FTP://127.0.0.1/", Code.BAD_SCHEME),
        ("data:image/png;base64," + "A" * 100_000, Code.BAD_SCHEME),
        ("javascript:alert(1)", Code.BAD_SCHEME),
        ("http://[]a@/", Code.BAD_URL),
        ("http://xn--a.invalid/", Code.BAD_URL),
        ("http://127.0.0.1%2e/", Code.BAD_URL),
        ("http://no-such-host.invalid/", Code.DNS_FAILURE),
        ("http://exämple.invalid/", Code.DNS_FAILURE),
        ("http://127.0.0.1:1/", Code.CONNECTION_FAILED),
    ],
)
def test_odd_url_has_its_code(url: str | None, code: Code) -> None:
    """A URL that cannot be asked for is a code, never an exception."""
    assert fetch(url).code is code


@given(st.text(max_size=60), st.sampled_from(["http://{}", "{}://a/", "http://a:{}/", "http://a/{}", "http:{}", "{}"]))
def test_any_text_is_a_url_or_a_code(text: str, form: str) -> None:
    """Whatever stands in the url column is parsed or refused, with a printable message."""
    parsed = parse(form.format(text))
    if isinstance(parsed, Fetched):
        assert parsed.code in (Code.NULL_URL, Code.BAD_URL, Code.BAD_SCHEME)
        assert parsed.error_message and parsed.error_message.isprintable()
    else:
        assert parsed.scheme in ("http", "https")
        assert parsed.host


HOST_PARTS = ["[", "]", "@", ":", "%", "%61", "xn--", "xn--a", "v1.", "::1", ".", "-", "a", "é", "%00", "ß", "＠"]


@given(st.lists(st.sampled_from(HOST_PARTS), max_size=6))
def test_any_host_is_a_name_or_a_code(parts: list[str]) -> None:
    """Whatever stands in a host's place is refused, or can be told; nothing of it ends a batch."""
    parsed = parse(f"http://{''.join(parts)}/")
    assert isinstance(parsed, Fetched) or (parsed.host and str(parsed.origin()))


@settings(max_examples=25, deadline=None)  # each example is a connection and a TLS context
@given(st.text(max_size=60))
def test_any_path_is_a_code(text: str) -> None:
    """Whatever is asked of a host that does not answer, the outcome is a code."""
    fetched = fetch(f"http://127.0.0.1:1/{text}")
    assert fetched.code in (Code.CONNECTION_FAILED, Code.BAD_URL)
    assert len(fetched.error_message or "") <= 200


def test_tls_failure_has_its_code(site: Site) -> None:
    """A server that does not speak TLS fails as such."""
    assert fetch(site.url("/photo.jpg").replace("http:", "https:")).code is Code.TLS_FAILURE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "0x7f.1"])
def test_private_hosts_are_not_reached(site: Site, host: str) -> None:
    """By default no spelling of loopback arrives."""
    before = site.hits.total()
    fetched = fetch(site.url("/photo.jpg", host), replace(POLICY, networks=()))
    assert fetched.code is Code.PRIVATE_ADDRESS
    assert site.hits.total() == before


def test_redirects_to_private_hosts_are_not_followed(site: Site) -> None:
    """The check holds for each hop, though the first host is allowed."""
    before = site.hits["127.0.0.2"]
    assert fetch(site.url(f"/redirect?to={site.url('/photo.jpg', '127.0.0.2')}")).code is Code.PRIVATE_ADDRESS
    assert site.hits["127.0.0.2"] == before


def test_wrapped_addresses_may_be_allowed(site: Site) -> None:
    """An allowed IPv4 network counts for the addresses that IPv6 wraps."""
    assert Guard(("127.0.0.1/32",)).allows("::ffff:127.0.0.1")
    assert not Guard(("127.0.0.1/32",)).allows("::ffff:127.0.0.2")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),
        *("192.0.0.192", "168.63.129.16", "224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%2", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "::7f00:1"),
        *("::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "100::1", "no address", ""),
    ],
)
def test_address_is_not_public(address: str) -> None:
    """Loopback, private, link-local, metadata, reserved, and IPv4 of these kinds inside IPv6."""
    assert not public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "192.0.1.1"]
)
def test_address_is_public(address: str) -> None:
    """Global addresses, also where NAT64 or ::ffff: wraps them."""
    assert public(address)


@pytest.mark.parametrize("path", ["/drip", "/announced"])
def test_deadline_is_total(site: Site, path: str) -> None:
    """A server that keeps a trickle coming, or stalls, is left when the time is up."""
    began = time.monotonic()
    fetched = fetch(site.url(path), replace(POLICY, timeout=0.4, max_bytes=10_000_000))
    assert fetched.code is Code.TIMEOUT
    assert time.monotonic() - began < 2


def test_slow_url_does_not_hold_up_others(site: Site) -> None:
    """While one URL drips, the others of the batch are fetched."""
    urls = [site.url("/drip")] + [site.url("/photo.jpg")] * 20
    codes = [f.code for f in fetch_all(urls, replace(POLICY, timeout=1, concurrency=2))]
    assert codes == [Code.TIMEOUT] + [Code.SUCCESS] * 20


def test_order_is_that_of_the_urls(site: Site) -> None:
    """Outcomes stand where their URLs stood, whichever came first."""
    urls = [site.url(p) for p in ("/large.jpg", "/missing", "/photo.jpg", "/error")] * 5
    assert [f.final_url for f in fetch_all(urls, POLICY)] == urls


def test_facts_of_the_answer_are_kept(site: Site) -> None:
    """Status, address after redirects and content type come with the body."""
    fetched = fetch(site.url("/redirect?to=/photo.jpg"))
    assert (fetched.http_status, fetched.content_type) == (200, "image/jpeg")
    assert fetched.final_url == site.url("/photo.jpg")
    assert fetched.body == site.jpeg


def test_plain_urls_are_sent_as_they_stand(site: Site) -> None:
    """Percent escapes are not rewritten: signatures over the URL stay valid."""
    path = "/robots?tag=a%2Cb%7e"
    fetch(site.url(path))
    assert site.hits[path] == 1


def test_retry_succeeds(site: Site) -> None:
    """With one retry a page that fails at first is fetched."""
    assert fetch(site.url("/flaky?retry"), replace(POLICY, retries=1)).code is Code.SUCCESS
    assert site.hits["/flaky?retry"] == 2


@pytest.mark.parametrize("path", ["/missing?once", "/robots?tag=noai&once", "/page.jpg?once", "/busy?once"])
def test_not_retried(site: Site, path: str) -> None:
    """No second request where it cannot help, or where the wait asked for exceeds the deadline."""
    fetch(site.url(path), replace(POLICY, retries=3))
    assert site.hits[path] == 1


def test_retries_end_at_the_deadline(site: Site) -> None:
    """However many retries are allowed, the time is that of one URL."""
    began = time.monotonic()
    assert fetch(site.url("/error?often"), replace(POLICY, retries=100, timeout=1)).code is Code.HTTP_5XX
    assert time.monotonic() - began < 2


def test_no_redirects(site: Site) -> None:
    """max_redirects=0 follows none."""
    assert fetch(site.url("/chain?left=1"), replace(POLICY, max_redirects=0)).code is Code.TOO_MANY_REDIRECTS


def test_proxies_of_the_environment_are_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would make the address check pointless."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(site.url("/photo.jpg")).code is Code.SUCCESS


def test_runs_inside_a_running_loop(site: Site) -> None:
    """Notebooks and async actors may call it."""

    async def notebook() -> Fetched:
        return fetch(site.url("/photo.jpg"))

    assert asyncio.run(notebook()).code is Code.SUCCESS


def test_use_sees_every_outcome_in_order(site: Site) -> None:
    """What is made of outcomes in threads comes back in the order of the URLs."""
    urls = [site.url("/photo.jpg"), None, site.url("/missing")]
    assert fetch_each(urls, POLICY, lambda f: len(f.body or b""), threads=2) == [len(site.jpeg), 0, 0]


def test_nothing_to_fetch() -> None:
    """No URLs, no outcomes."""
    assert fetch_all([], POLICY) == []


@pytest.mark.parametrize(
    "lines",
    [
        ["noai"],
        ["NOAI"],
        ["noindex, nofollow"],
        ["nofollow,noai"],
        ["all", "noai"],
        ["none"],
        ["*: noai"],
        ["pairsieve: noai"],
        ["PairSieve : NoImageAI"],
        ["noai, otherbot: nofollow"],
        ["max-image-preview:large, noai"],
        ["otherbot: noindex, pairsieve: noai"],
        ["unavailable_after: Wed, 25 Jun 2031 15:00:00 GMT, noai"],
        ["otherbot: noindex", "noimageindex"],
        ["noai: yes"],
        ["unavailable_after: 25-Jun-2010 15:00:00 GMT"],
    ],
)
def test_opt_out_is_respected(site: Site, lines: list[str]) -> None:
    """Every legal way to write it rules the image out before its body is read."""
    query = "&".join(f"tag={line.replace(' ', '%20')}" for line in lines)
    fetched = fetch(site.url(f"/robots?{query}"))
    assert (fetched.code, fetched.body) == (Code.OPTED_OUT, None)


@pytest.mark.parametrize(
    "lines",
    [
        ["all"],
        ["nofollow"],
        ["img2dataset: noai"],
        ["otherbot: noindex, noai"],
        ["max-image-preview:none"],
        ["unavailable_after: 25-Jun-2090 15:00:00 GMT"],
        ["pairsieve: nofollow, otherbot: noai"],
        [""],
    ],
)
def test_what_is_no_opt_out_is_fetched(site: Site, lines: list[str]) -> None:
    """Directives for others, and those that rule out something else, do not."""
    query = "&".join(f"tag={line.replace(' ', '%20')}" for line in lines)
    assert fetch(site.url(f"/robots?{query}")).code is Code.SUCCESS


def test_opt_out_by_the_name_in_the_user_agent(site: Site) -> None:
    """The first word of the user agent is the name that a site may address."""
    policy = replace(POLICY, user_agent="img2dataset/1.47 (+mailto:me@example.org)")
    assert fetch(site.url("/robots?tag=img2dataset:noai"), policy).code is Code.OPTED_OUT


def test_opt_outs_may_be_ignored(site: Site) -> None:
    """An empty list reads no header."""
    assert fetch(site.url("/robots?tag=noai"), replace(POLICY, disallowed=())).code is Code.SUCCESS


@given(st.lists(st.text(max_size=80), max_size=4))
def test_robots_parser_takes_any_header(lines: list[str]) -> None:
    """Whatever a server sends, the parser answers with a disallowed directive or nothing."""
    assert opted_out(lines, "pairsieve", DISALLOWED) in (None, *DISALLOWED)


TERMS = ["noai", "none", "all", "nofollow", "pairsieve: noai", "otherbot: noindex", "max-snippet: 5", "noimageindex"]


@given(st.lists(st.sampled_from(TERMS), max_size=5), st.sampled_from(["", " ", "\t "]))
def test_robots_parser_ignores_case_and_blanks(terms: list[str], blank: str) -> None:
    """Spelling does not change what is meant."""
    plain = opted_out([",".join(terms)], "pairsieve", DISALLOWED)
    loud = [f"{blank},{blank}".join(t.replace(":", f"{blank}:{blank}") for t in terms).upper() + blank]
    assert opted_out(loud, "PairSieve", DISALLOWED) == plain


def test_every_code_has_a_status() -> None:
    """Each code falls under one of img2dataset's three statuses."""
    assert {status(c) for c in Code} == {"success", "failed_to_download", "failed_to_resize"}
    assert [c for c in Code if status(c) == "success"] == [Code.SUCCESS]
