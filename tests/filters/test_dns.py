"""Names: asked of chosen servers, remembered where they do not exist, and never a way to a private address."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import ValidationError

from pairsieve.filters._client import Client, fetch_all
from pairsieve.filters._codes import Code
from pairsieve.filters._fetch import Fetched, Policy
from pairsieve.filters.download import Download
from tests.support_dns import name_server
from tests.support_web import Site, serving

POLICY = Policy(timeout=5, networks=("127.0.0.1/32",))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A web server at 127.0.0.1, allowed, and at 127.0.0.2, not."""
    with serving() as served:
        yield served


def fetch(url: str, server: str, **policy: object) -> Fetched:
    """One URL, its name asked of a server."""
    (found,) = fetch_all([url], replace(POLICY, name_servers=(server,), **policy))  # type: ignore[arg-type]
    return found


def test_names_are_asked_of_the_servers_given(site: Site) -> None:
    """A name that only this server knows leads to its address."""
    with name_server(lambda name, times: ["127.0.0.1"]) as server:
        found = fetch(site.url("/ok/1", "photos.test"), server.address)
    assert (found.code, found.host) == (Code.SUCCESS, "photos.test")
    assert server.asked["photos.test"] == 1


@pytest.mark.parametrize("address", ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.2", "fd00::1"])
def test_names_of_private_addresses_are_refused(site: Site, address: str) -> None:
    """What a name server says is checked like an address in the URL: nothing arrives."""
    before = site.hits.total()
    with name_server(lambda name, times: [address]) as server:
        assert fetch(site.url("/ok/1", "inside.test"), server.address).code is Code.PRIVATE_ADDRESS
    assert site.hits.total() == before


def test_a_public_address_beside_a_private_one_is_used_alone(site: Site) -> None:
    """Of several addresses only those that are allowed are tried."""
    with name_server(lambda name, times: ["10.255.255.1", "127.0.0.1"]) as server:
        assert fetch(site.url("/ok/1", "both.test"), server.address).code is Code.SUCCESS


def test_a_public_address_that_fails_beside_a_private_one_is_a_failed_connection() -> None:
    """Only where every address is refused is that the reason: the other may answer another day."""
    with name_server(lambda name, times: ["10.255.255.1", "127.0.0.1"]) as server:
        assert fetch("http://both.test:1/", server.address).code is Code.CONNECTION_FAILED


def test_rebinding_reaches_nothing(site: Site) -> None:
    """A name whose address changes between look-ups is checked each time it is connected to."""
    before = site.hits["/ok/77"]
    with name_server(lambda name, times: ["127.0.0.1" if name == "front.test" else "127.0.0.2"]) as server:
        url = site.url(f"/redirect?to={site.url('/ok/77', 'rebound.test')}", "front.test")
        assert fetch(url, server.address).code is Code.PRIVATE_ADDRESS
    assert site.hits["/ok/77"] == before


def test_missing_names_are_remembered(site: Site) -> None:
    """A thousand URLs of a host that does not exist are one look-up."""
    policy = replace(POLICY, concurrency=4)
    with (
        name_server(lambda name, times: 3) as server,
        Client(replace(policy, name_servers=(server.address,)), lambda fetched: fetched.code) as client,
    ):
        first = client.begin([site.url(f"/ok/{i}", "gone.test") for i in range(4)]).result()
        asked = server.asked["gone.test"]
        rest = client.begin([site.url(f"/ok/{i}", "gone.test") for i in range(100)]).result()
        assert set(first + rest) == {Code.DNS_FAILURE}
        assert server.asked["gone.test"] == asked


def test_servers_that_fail_are_asked_again(site: Site) -> None:
    """SERVFAIL says nothing of the name: a retry may help, and does."""
    with name_server(lambda name, times: 2 if times <= 3 else ["127.0.0.1"]) as server:
        assert fetch(site.url("/ok/1", "flaky.test"), server.address, retries=2).code is Code.SUCCESS


def test_silent_servers_end_at_the_deadline(site: Site) -> None:
    """A server that never answers costs the time of one URL."""
    with name_server(lambda name, times: None) as server:
        found = fetch(site.url("/ok/1", "silent.test"), server.address, timeout=0.5)
    assert (found.code, found.seconds < 2) == (Code.TIMEOUT, True)


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1:0", "127.0.0.1:x", "", "1.2.3.4:99999", "1.2.3"])
def test_name_servers_are_addresses(server: str) -> None:
    """What is no address, perhaps with a port, is refused before anything runs."""
    with pytest.raises(ValidationError):
        Download(name_servers=(server,))


def test_dns_failures_are_advised_about() -> None:
    """Where many URLs have no address the user is told what to do; where a few have none, nothing."""
    from pairsieve.filters._host_tally import HostTally, by_code

    for lost, lines in ((30, 1), (1, 0)):
        tally = HostTally()
        for i in range(100):
            tally.add(f"h{i}.test", "dns_failure" if i < lost else "success", 1, 1, 0.1)
        facts = tally.take()
        assert facts is not None
        advice = Download().advice(by_code(facts))
        assert len(advice) == lines
        assert all("name_servers" in line and "--reasons dns" in line for line in advice)
