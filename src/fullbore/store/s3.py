"""S3 and what speaks its protocol; retries with backoff are obstore's own.

Credentials and endpoint come from the usual environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_REGION, AWS_ENDPOINT_URL. Plain HTTP is spoken to this machine only.
"""

from __future__ import annotations

import io
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import BinaryIO
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket

from fullbore.base.errors import InputError
from fullbore.store.interface import Entry

_RETRIES = 10
_PATIENCE = timedelta(seconds=60)
_BUFFER = 8 << 20


class S3Store:
    """The objects of a bucket below a prefix."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.netloc:
            raise InputError(f"{url}: no bucket", hint="write s3://bucket/prefix")
        self.url = url
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._bucket = Bucket(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config={"endpoint": endpoint} if endpoint else None,
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            client_options={"allow_http": _is_loopback(endpoint)},
            retry_config={"max_retries": _RETRIES, "retry_timeout": _PATIENCE},
        )

    def list(self) -> list[Entry]:
        with self._named(""):
            found = [entry for chunk in obstore.list(self._bucket) for entry in chunk]
        entries = [Entry(e["path"], e["size"], e["e_tag"] or e["last_modified"].isoformat()) for e in found]
        return sorted(entries, key=lambda entry: entry.path)

    def read(self, path: str) -> bytes:
        with self._named(path):
            return bytes(obstore.get(self._bucket, path).bytes())

    def stream(self, path: str) -> BinaryIO:
        with self._named(path):
            reader = obstore.open_reader(self._bucket, path, buffer_size=_BUFFER)
        return io.BufferedReader(_Reader(self, reader, path))

    def write(self, path: str, content: bytes) -> None:
        with self._named(path):
            obstore.put(self._bucket, path, content)

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        where = f"{self.url.rstrip('/')}/{path}" if path else self.url
        try:
            yield
        except FileNotFoundError:
            raise InputError(f"{where}: not there", hint="check the bucket and the name") from None
        except (BaseError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{where}: cannot be read ({reason})",
                hint="check AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ) from None


class _Reader(io.RawIOBase):
    """obstore's reader as the file object that gzip, zstandard and csv want."""

    def __init__(self, store: S3Store, reader: obstore.ReadableFile, path: str) -> None:
        self._store, self._reader, self._path = store, reader, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with self._store._named(self._path):
            data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _is_loopback(endpoint: str | None) -> bool:
    host = urlsplit(endpoint or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
