"""Read proxies, NO_PROXY and trusted certificates from the environment.

Every HTTP client of the package takes its transport options from here. The rules are those of curl
and requests: https://curl.se/libcurl/c/CURLOPT_NOPROXY.html
"""

import os
import re
import ssl
import urllib.request
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypedDict

import httpx

from magnetis_dagster.errors import PermanentError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_NO_PROXY_ENTRY = re.compile(
    r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?"
)
_HASHED_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.\d+")
"""A file name that OpenSSL looks for in a directory of certificates."""


class TransportOptions(TypedDict):
    """Arguments of httpx.HTTPTransport and httpx.AsyncHTTPTransport."""

    proxy: httpx.Proxy | None
    verify: ssl.SSLContext


def transport_options(url: httpx.URL) -> TransportOptions:
    """Return the proxy and the trusted certificates for requests to `url`.

    Raises: PermanentError if a variable names a proxy or certificates that cannot be used.
    """
    address = proxy_for(url)
    proxy = None if address is None else httpx.Proxy(address)
    uses_tls = "https" in {url.scheme, proxy.url.scheme if proxy else None}
    # reading certificates takes 50 ms of CPU, which plain HTTP does not need
    trusted = certificates() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if proxy and proxy.url.scheme == "https":
        proxy.ssl_context = trusted
    return {"proxy": proxy, "verify": trusted}


def proxy_for(url: httpx.URL) -> str | None:
    """Return the URL of the proxy for `url`, which may contain a password.

    None for this machine's loopback names, for hosts in NO_PROXY, and if there is no proxy.

    Raises: PermanentError if the variable's value is not the URL of a proxy.
    """
    # From the environment, in which a lower-case name takes precedence. Otherwise from the system
    # on macOS and Windows.
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or url.host in _LOOPBACK or bypasses_proxy(url, proxies.get("no", "")):
        return None
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(url.host):
        return None
    proxy = proxy.strip() if "://" in proxy else f"http://{proxy.strip()}"
    _check_proxy(proxy, _variable_of(url.scheme))
    return proxy


def proxy_address(proxy: str) -> str:
    """Return host and port of a proxy's URL, without its credentials."""
    url = httpx.URL(proxy)
    return url.netloc.decode() if url.port else f"{url.host}:{_DEFAULT_PORTS[url.scheme]}"


def bypasses_proxy(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether `no_proxy` contains the host of `url`.

    The list is separated by commas or spaces. An entry is `*`, a name, an IP address, or a network
    such as 10.0.0.0/8 or fd00::/8. A name includes its subdomains, with or without a leading dot. A
    name or an address may end in a port. Names are not resolved.
    """
    host = url.host.lower().rstrip(".")
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    return any(_matches(entry, host, port) for entry in re.split(r"[\s,]+", no_proxy.lower()))


def _matches(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    if parts := _NO_PROXY_ENTRY.fullmatch(entry):
        if parts["port"] and int(parts["port"]) != port:
            return False
        entry = parts["bracketed"] or parts["name"]
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        name = entry.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _variable_of(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "The proxy of this system")


def _check_proxy(proxy: str, variable: str) -> None:
    """Raise PermanentError for a URL that would be parsed differently than intended.

    An unescaped / ? # or @ in a password changes the host, and errors show the host.
    """
    advice = "Correct it, or list the host in NO_PROXY."
    try:
        url = httpx.URL(proxy)
        port = url.port
    except httpx.InvalidURL:
        url, port = httpx.URL(""), None
    if (
        url.scheme not in _DEFAULT_PORTS
        or not re.fullmatch(r"[^\s%]+", url.host)
        or (port is not None and not 0 < port < 65_536)
        or url.path not in {"", "/"}
        or url.query
        or url.fragment
        or proxy.count("@") > 1
    ):
        raise PermanentError(
            f"{variable} does not name a proxy: expected http://host:port, or http://user:password@"
            f"host:port with @ : / ? # % in the password written as %40 …. {advice}"
        )
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise PermanentError(
            f"{variable} names a SOCKS proxy, which needs the Python package socksio: install it, "
            f"or name an http:// proxy. {advice}"
        )


def certificates() -> ssl.SSLContext:
    """Return a context that trusts SSL_CERT_FILE and SSL_CERT_DIR, or certifi's list.

    Raises: PermanentError if one of them names no certificates.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    advice = "Correct the variable, or unset it to trust the usual certificate authorities."
    if folders:
        for folder in folders.split(os.pathsep):
            try:
                found = any(
                    _HASHED_CERTIFICATE.fullmatch(each.name) for each in Path(folder).iterdir()
                )
            except OSError as error:
                raise PermanentError(
                    f"SSL_CERT_DIR: cannot list the directory {folder!r} ({error.strerror}). "
                    f"{advice}"
                ) from None
            if not found:
                raise PermanentError(
                    "SSL_CERT_DIR: expected certificates named by `openssl rehash` in "
                    f"{folder!r}, found none. {advice}"
                )
    try:
        if not file and not folders:
            return httpx.create_ssl_context(trust_env=False)
        return ssl.create_default_context(cafile=file or None, capath=folders or None)
    except ssl.SSLError:
        reason = "contains no certificates in PEM format"
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
    raise PermanentError(f"SSL_CERT_FILE: the file {file!r} {reason}. {advice}")
