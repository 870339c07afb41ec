"""The report of a run over HTTP, on this machine alone: for a run on a machine that is looked at through ssh."""

from __future__ import annotations

import functools
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from lssvwm.worldmodel.common.errors import InputError

HOST = "127.0.0.1"


class ReportHandler(SimpleHTTPRequestHandler):
    """Reads files of one folder, and nothing that only a link in it leads to."""

    def send_head(self) -> Any:
        """Refuse what is no file of the report, and pages of others that have this one's address."""
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            return self.refuse(HTTPStatus.FORBIDDEN)
        path, folder = Path(self.translate_path(self.path)), Path(self.directory).resolve()
        inside = path.resolve().is_relative_to(folder)
        if not inside or any(part.startswith(".") for part in path.relative_to(self.directory).parts):
            return self.refuse(HTTPStatus.NOT_FOUND)
        return super().send_head()

    def list_directory(self, path: Any) -> Any:
        """No lists of files."""
        return self.refuse(HTTPStatus.NOT_FOUND)

    def refuse(self, status: HTTPStatus) -> BinaryIO | None:
        """Answer with an error."""
        self.send_error(status)
        return None

    def end_headers(self) -> None:
        """The page of a run that goes on is another every minute."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for other things."""


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the report in `folder` on 127.0.0.1; port 0 takes a free one. InputError for one that is taken."""
    try:
        return ThreadingHTTPServer((HOST, port), functools.partial(ReportHandler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        said = "is no port" if isinstance(error, OverflowError) else f"cannot be used ({error.strerror})"
        raise InputError(f"--port {port} {said}: choose another, or leave it out for one that is free") from error
