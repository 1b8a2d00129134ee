"""The closed set of outcomes of downloading one image, and the three statuses they fall under.

A code is what reports count and what a verdict gives as its reason, so server text never becomes
one.  The statuses are img2dataset's, for tools that read its tables.
"""

from enum import StrEnum


class Code(StrEnum):
    """What became of one URL; the comment after each says when."""

    SUCCESS = "success"  # stored
    NULL_URL = "null_url"  # null, empty or blank
    BAD_URL = "bad_url"  # no valid URL, longer than 8192 characters, or with a password
    BAD_SCHEME = "bad_scheme"  # neither http nor https, also after a redirect
    PRIVATE_ADDRESS = "private_address"  # every address of the host, or of a redirect's, is refused
    DNS_FAILURE = "dns_failure"  # the host name has no address
    CONNECTION_FAILED = "connection_failed"  # refused, reset, or ended before the announced length
    TLS_FAILURE = "tls_failure"  # certificate or handshake
    TIMEOUT = "timeout"  # the deadline passed, or no answer came
    TOO_SLOW = "too_slow"  # the body came more slowly than low_speed_limit
    BAD_RESPONSE = "bad_response"  # the answer is not HTTP as the client understands it
    HOST_DOWN = "host_down"  # max_host_failures: its host failed too often in a row; not asked for
    HTTP_3XX = "http_3xx"  # a redirect that leads nowhere, or 304
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    HTTP_4XX = "http_4xx"  # any other client error
    HTTP_5XX = "http_5xx"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    ROBOTS_TXT = "robots_txt"  # the site's robots.txt disallows it; not asked for
    OPTED_OUT = "opted_out"  # X-Robots-Tag; the body was not read
    COMPRESSED_BODY = "compressed_body"  # Content-Encoding although none was asked for; not inflated
    BODY_TOO_LARGE = "body_too_large"  # announced or sent
    EMPTY_BODY = "empty_body"
    HASH_MISMATCH = "hash_mismatch"  # verify_hash: the body is another than the one that was listed
    NOT_AN_IMAGE = "not_an_image"  # by the first bytes, whatever Content-Type says
    IMAGE_FORMAT_REFUSED = "image_format_refused"  # an image, of a format that is not decoded
    TOO_MANY_PIXELS = "too_many_pixels"  # by the header, before decoding; or after resizing
    BROKEN_IMAGE = "broken_image"  # does not decode to its end
    BAD_BOXES = "bad_boxes"  # bbox_col: what is to be blurred cannot be told, so nothing is stored
    FAILED_TO_ENCODE = "failed_to_encode"  # the result does not fit the output format
    IMAGE_TOO_SMALL = "image_too_small"  # verdicts only: min_image_size
    IMAGE_AREA_TOO_LARGE = "image_area_too_large"  # verdicts only: max_image_area
    ASPECT_RATIO_TOO_LARGE = "aspect_ratio_too_large"  # verdicts only: max_aspect_ratio


RETRIED = frozenset(
    {Code.DNS_FAILURE, Code.CONNECTION_FAILED, Code.TIMEOUT, Code.HTTP_429, Code.HTTP_5XX},
)
"""Outcomes that another attempt may change."""

SILENT = frozenset({Code.CONNECTION_FAILED, Code.TIMEOUT, Code.HTTP_429})
"""Outcomes that say of a host that it is not to be had now."""

_RESIZE = frozenset(
    {
        Code.COMPRESSED_BODY,
        Code.EMPTY_BODY,
        Code.NOT_AN_IMAGE,
        Code.IMAGE_FORMAT_REFUSED,
        Code.TOO_MANY_PIXELS,
        Code.BROKEN_IMAGE,
        Code.BAD_BOXES,
        Code.FAILED_TO_ENCODE,
        Code.IMAGE_TOO_SMALL,
        Code.IMAGE_AREA_TOO_LARGE,
        Code.ASPECT_RATIO_TOO_LARGE,
    }
)


def status(code: Code) -> str:
    """img2dataset's status: success, failed_to_download, or failed_to_resize where a body came but no image."""
    if code is Code.SUCCESS:
        return "success"
    return "failed_to_resize" if code in _RESIZE else "failed_to_download"


def status_code(http_status: int) -> Code | None:
    """The code of an HTTP status; null for 2xx."""
    if 200 <= http_status < 300:
        return None
    exact = {404: Code.HTTP_404, 429: Code.HTTP_429}
    families = {3: Code.HTTP_3XX, 4: Code.HTTP_4XX, 5: Code.HTTP_5XX}
    return exact.get(http_status) or families.get(http_status // 100, Code.BAD_RESPONSE)


def printable(text: str, length: int = 200) -> str:
    """The text as one bounded line: what cannot be printed (or stored as UTF-8) becomes ``?``."""
    text = text[:length]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
