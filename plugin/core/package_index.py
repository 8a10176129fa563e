"""Reads a file from the Python package index: mirrors, credentials, proxies. Standard library only."""

from __future__ import annotations

import base64
import html
import http.client
import os
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Callable, Dict, Mapping

INDEX = "https://pypi.org/simple"
VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
CREDENTIALS = re.compile(r"(://)[^/@\s]+@")
SILENT_SECONDS = 20.0
CHUNK_BYTES = 1 << 18
PROBLEMS = (OSError, ValueError, http.client.HTTPException)
"""What reading may raise."""


class Stopped(Exception):
    """The user wants no download any more."""


def without_credentials(text: str) -> str:
    """The same without users and passwords in its addresses."""
    return CREDENTIALS.sub(r"\1***@", text)


def index_url(variables: Mapping[str, str]) -> str:
    """The index that uv or pip would ask by these variables; a name before it (name=https://...) is left out."""
    named = next((variables[name] for name in VARIABLES if variables.get(name)), INDEX)
    return re.sub(r"^[\w.-]+=(?=\w+://)", "", named).rstrip("/")


def with_proxy(variables: Mapping[str, str], proxy: str) -> Dict[str, str]:
    """The variables, with a proxy for who has named none."""
    named = {name.lower() for name in variables}
    missing = [name for name in ("HTTP_PROXY", "HTTPS_PROXY") if name.lower() not in named and "all_proxy" not in named]
    return {**variables, **{name: proxy for name in missing if proxy}}


def download(project: str, name: str, path: Path, variables: Mapping[str, str], cancelled: Callable[[], bool]) -> None:
    """A file of a project, whole or not there at all; one of `PROBLEMS`, or `Stopped`."""
    page_url = f"{index_url(variables)}/{project}/"
    with _open(page_url, variables) as page:
        text = page.read().decode("utf-8")
    links = re.findall(rf'href="([^"]*{re.escape(name)})[#"]', text)
    if not links:
        raise ValueError(f"{without_credentials(page_url)} does not list it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, url = path.with_suffix(".part"), _with_login_of(page_url, html.unescape(links[0]))
    with _open(url, variables) as stream, part.open("wb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            if cancelled():
                raise Stopped
            out.write(chunk)
    part.replace(path)


def _with_login_of(page_url: str, link: str) -> str:
    """A link's address, with the page's user and password if it leads to the same host."""
    page = urllib.parse.urlsplit(page_url)
    url = urllib.parse.urlsplit(urllib.parse.urljoin(page_url, link))
    same = (url.scheme, url.hostname, url.port) == (page.scheme, page.hostname, page.port)
    return urllib.parse.urlunsplit(url._replace(netloc=page.netloc) if same else url)


def _open(url: str, variables: Mapping[str, str]) -> IO[bytes]:
    """An address, whose user and password, which urllib does not understand there, become a header."""
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if login:
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    proxies = {scheme: variables[name] for scheme, name in (("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY"))
               if name in variables and name not in os.environ}
    handler = urllib.request.ProxyHandler({**urllib.request.getproxies(), **proxies})
    return urllib.request.build_opener(handler).open(request, timeout=SILENT_SECONDS)
