"""Whose certificates are trusted: a file, since libcurl keeps what it read of one, but not of a folder."""

import os
import ssl
from functools import cache
from pathlib import Path

import certifi

_BUNDLES = (  # where systems keep the authorities they trust; Debian, Fedora, SUSE, Alpine and macOS, FreeBSD
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
)


@cache
def authorities() -> str:
    """The file of certificates that are trusted: ``SSL_CERT_FILE``, else the system's, else certifi's."""
    named = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES)
    return next((file for file in named if file and Path(file).is_file()), certifi.where())
