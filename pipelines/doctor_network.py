"""The network as downloads see it: the resolver, proxies, object stores.  Credentials are named, never read out."""

import os
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pairsieve.pipelines.doctor import Finding, note, ok

HOST = "example.com"
RESOLVER = Path("/etc/resolv.conf")
SLOW = 0.5
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_STORES = {
    "S3": (("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "FSSPEC_S3_KEY"), "~/.aws/credentials", "s3fs"),
    "Google Cloud": (("GOOGLE_APPLICATION_CREDENTIALS",), "~/.config/gcloud", "gcsfs"),
    "Azure": (("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"), "~/.azure", "adlfs"),
}
"""Where client libraries find credentials: variables, a file, and the package that reads the store."""


def dns() -> Iterator[Finding]:
    """The resolver, and how long one name takes."""
    servers = _servers()
    who = f"resolver {', '.join(servers)}" if servers else f"no resolver in {RESOLVER}"
    began = time.perf_counter()
    try:
        socket.getaddrinfo(HOST, 443, type=socket.SOCK_STREAM)
    except OSError as error:
        said = f"{who}; {HOST} is not found ({error.strerror or error}): offline, or behind a proxy"
        yield note("DNS", said, "downloads need it; pools on disk do not")
        return
    seconds = time.perf_counter() - began
    said = f"{who}; answers in {seconds:.2f} s"
    if seconds > SLOW:
        yield note("DNS", said, "a caching resolver of your own helps downloads: docs/download.md")
    else:
        yield ok("DNS", said)


def proxies() -> Iterator[Finding]:
    """Proxies of the environment, which downloads pass over."""
    if set_ := [name for name in _PROXIES if os.environ.get(name)]:
        said = f"{', '.join(set_)} set; download goes past them"
        yield note("proxies", said, "if nothing else leads out: download: {environment_proxies: true}")
    else:
        yield ok("proxies", "none in the environment")


def object_stores() -> Iterator[Finding]:
    """Which credentials are there; those that a machine's role gives cannot be seen."""
    for store, (variables, file, package) in _STORES.items():
        found = [name for name in variables if os.environ.get(name)]
        found += [file] if Path(file).expanduser().exists() else []
        if found and find_spec(package) is None:
            yield note("object stores", f"{store}: {', '.join(found)}, but no {package}", f"pip install {package}")
        elif found:
            yield ok("object stores", f"{store}: {', '.join(found)} (values are not read)")
    if not any(os.environ.get(n) for names, _, _ in _STORES.values() for n in names):
        yield ok("object stores", "no credentials in the environment; local runs need none")


def _servers() -> list[str]:
    try:
        lines = RESOLVER.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
