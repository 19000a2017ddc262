"""A Hugging Face Hub on loopback: as much of its HTTP protocol as the real client needs to list and download.

`HubServer` serves folders or dicts of bytes as repositories with commits, branches and tags. What the real Hub does and
the client relies on is done here as well: `X-Repo-Commit`, git object ids as entity tags of small files, SHA-256 and a
redirect to another host for large ones, `Range`, pages of a listing, 401 for what does not exist where no token is sent.
The xet protocol is left out: without an `xetHash` the client takes plain HTTP. Fixtures: `hub` in conftest.py, for tests
that run the command line in a process of its own (`hub.environment(home)`) or in theirs (`hub.use(monkeypatch, home)`).
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".ckpt", ".pth", ".pt", ".onnx", ".msgpack")  # what lies in the Hub's large storage
_PAGE = 1000  # entries of a listing in one answer


@dataclass
class Repository:
    """`commits`: commit to files (name to bytes, or to a path); `refs`: branch or tag to commit."""

    commits: dict[str, dict[str, bytes | Path]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # who sends another one, or none, is told that there is no such repository
    status: int | None = None  # answer everything with this status

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Break:
    """A file that does not come whole: after `after` bytes the connection ends as `how` says."""

    after: int | None  # None: half of what was asked for
    how: str
    times: int | None  # None: always


class HubServer(ThreadingHTTPServer):
    """The server; `requests` lists what was asked ("GET /owner/name/..."), `url` is its HF_ENDPOINT."""

    daemon_threads = True

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.sent: list[str] = []
        self.breaks: dict[str, Break] = {}
        self.stalled = threading.Event()  # a stall has begun: the moment to kill the client
        self.released = threading.Event()
        self._tags: dict[tuple, tuple[str, str]] = {}
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def add(
        self,
        name: str,
        files: Path | Mapping[str, bytes | str | Path],
        *,
        commit: str = COMMIT,
        refs: Iterable[str] = ("main",),
        gated: bool = False,
        token: str | None = None,
        status: int | None = None,
    ) -> Repository:
        """Serve the files of a folder (read when asked for), or those given, as `commit` of `name`, with `refs` on it."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in sorted(files.rglob("*")) if path.is_file()}
        contents = {name: body.encode() if isinstance(body, str) else body for name, body in files.items()}
        repository = self.repositories.setdefault(name, Repository())
        repository.commits[commit] = contents
        repository.refs |= dict.fromkeys(refs, commit)
        repository.gated, repository.token, repository.status = gated, token, status
        return repository

    def break_file(self, name: str, *, after: int | None = None, how: str = "reset", times: int | None = None) -> None:
        """Let downloads of the file `name` (of any repository) end in the middle; `mend` makes them whole again.

        `how`: "reset" is a lost network, which the client does not survive; after "close" it tries again by itself,
        five times; "stall" says no more but stays connected, and sets `stalled`.
        """
        self.stalled.clear()
        self.released.clear()
        self.breaks[name] = Break(after, how, times)

    def mend(self) -> None:
        self.breaks.clear()
        self.released.set()

    def downloads(self, repo: str = "") -> list[str]:
        """The files whose content was sent, wholly or in part, as "owner/name/path", in order."""
        return [name for name in self.sent if name.startswith(repo)]

    def environment(self, home: Path, *, offline: bool = False, **more: str) -> dict[str, str]:
        """The environment of a process that finds its Hub here, with the Hub's cache below `home`."""
        kept = ("PATH", "PYTHONPATH", "DREAMPOSE_CACHE", "SYSTEMROOT", "HOME", "LANG", "OMP_NUM_THREADS")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"HF_HOME": str(home), "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "1" if offline else "0"}
        environment |= {"NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return environment | more

    def use(self, monkeypatch, home: Path, *, offline: bool = False) -> None:
        """Point the client of this very process here. Its constants are read when it is imported: set those too."""
        from huggingface_hub import constants

        for name, value in self.environment(home, offline=offline).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {"127.0.0.1"})
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    def tags(self, body: bytes | Path) -> tuple[str, str]:
        """The git object id and the SHA-256 of a file, both in hex."""
        key = (body, body.stat().st_mtime_ns, body.stat().st_size) if isinstance(body, Path) else (body,)
        if key not in self._tags:
            content = body.read_bytes() if isinstance(body, Path) else body
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            self._tags[key] = blob, hashlib.sha256(content).hexdigest()
        return self._tags[key]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:], parse_qs(url.query))
        elif parts[0] == "large-storage" and len(parts) == 4:  # where redirects lead
            self._large("/".join(parts[1:3]), parts[3])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._answer(200 if path == "/" else 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.server.requests.append(f"POST {unquote(url.path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = unquote(url.path).strip("/").split("/")
        if parts[:2] != ["api", "models"] or parts[4:5] != ["paths-info"]:
            return self._answer(404)
        found = self._repository("/".join(parts[2:4]), "/".join(parts[5:]))
        if found is None:
            return None
        content_type = self.headers.get("Content-Type", "")
        asked = json.loads(body)["paths"] if "json" in content_type else parse_qs(body.decode()).get("paths", [])
        entries = [self._entry(name, found[1][name]) for name in asked if name in found[1]]
        return self._json(entries)

    def _answer(self, status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, **headers: str) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, X_Error_Code=code, X_Error_Message=message)

    def _repository(self, name: str, revision: str) -> tuple[str, dict[str, bytes | Path]] | None:
        """(commit, files), or None after the refusal was sent."""
        repository = self.server.repositories.get(name)
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is not None and repository.status:
            return self._answer(repository.status)
        if repository is None or (repository.token and sent != repository.token):
            return self._refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
        if repository.gated and not sent:
            return self._refuse(401, "GatedRepo", f"Access to model {name} is restricted.")
        commit = repository.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _entry(self, name: str, body: bytes | Path) -> dict:
        blob, digest = self.server.tags(body)
        entry = {"type": "file", "oid": blob, "size": _size(body), "path": name}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": digest, "size": _size(body), "pointerSize": 134}
        return entry

    def _api(self, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
        what = rest[0] if rest else "revision"
        repository = self.server.repositories.get(name)
        revision = rest[1] if len(rest) > 1 else "main"
        if repository is not None and what == "revision":  # a branch may hold slashes
            revision = "/".join(rest[1:]) or "main"
        found = self._repository(name, revision)
        if found is None:
            return None
        commit, files = found
        if what == "revision":
            siblings = [{"rfilename": file} for file in files]
            return self._json({"_id": "0", "id": name, "modelId": name, "sha": commit, "private": False, "gated": False,
                               "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip
        if what != "tree":
            return self._answer(404)
        below = "/".join(rest[2:])
        names = [file for file in files if not below or file.startswith(below + "/")]
        if not any(value.lower() in ("true", "1") for value in query.get("recursive", [])):
            names = [file for file in names if "/" not in file[len(below) + 1 if below else 0 :]]
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + _PAGE < len(names):
            more["Link"] = (
                f'<{self.server.url}{self.path.split("?")[0]}?recursive=true&cursor={start + _PAGE}>; rel="next"'
            )
        return self._json([self._entry(file, files[file]) for file in names[start : start + _PAGE]], **more)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._repository(name, revision)
        if found is None:
            return None
        commit, files = found
        if file not in files:
            return self._answer(
                404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit
            )
        body = files[file]
        blob, digest = self.server.tags(body)
        if not file.endswith(LARGE):
            return self._send(name, file, body, ETag=f'"{blob}"', X_Repo_Commit=commit)
        elsewhere = self.server.url.replace("127.0.0.1", "localhost")  # the client does not follow to another host
        return self._answer(
            302,
            Location=f"{elsewhere}/large-storage/{name}/{digest}",
            ETag=f'"{digest}"',
            X_Linked_Etag=f'"{digest}"',
            X_Linked_Size=str(_size(body)),
            X_Repo_Commit=commit,
        )

    def _large(self, name: str, digest: str) -> None:
        for files in self.server.repositories[name].commits.values():
            for file, body in files.items():
                if file.endswith(LARGE) and self.server.tags(body)[1] == digest:
                    return self._send(name, file, body, ETag=f'"{digest}"')
        return self._answer(404)

    def _send(self, name: str, file: str, body: bytes | Path, **headers: str) -> None:
        total = _size(body)
        start, end, status = 0, total - 1, 200
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end, status = int(first), int(last) if last else total - 1, 206
            if start >= total:
                return self._answer(416, Content_Range=f"bytes */{total}")
            headers["Content_Range"] = f"bytes {start}-{end}/{total}"
        if self.command == "HEAD":
            return self._answer(status, length=end + 1 - start, Accept_Ranges="bytes", **headers)
        self.server.sent.append(f"{name}/{file}")
        content = body.read_bytes() if isinstance(body, Path) else body
        content = content[start : end + 1]
        broken = self.server.breaks.get(file)
        if broken is None or broken.times == 0:
            return self._answer(status, content, Accept_Ranges="bytes", **headers)
        if broken.times:
            broken.times -= 1
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2 if broken.after is None else max(0, broken.after - start)])
        self.wfile.flush()
        if broken.how == "stall":
            self.server.stalled.set()
            self.server.released.wait(120)
        if broken.how == "reset":  # the client's answer is lost, not merely over
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True
        return None


def _size(body: bytes | Path) -> int:
    return body.stat().st_size if isinstance(body, Path) else len(body)
