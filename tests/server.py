"""A server that speaks the OpenAI protocol and answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """`cut`: bytes by which the body falls short of its announced length. `trickle`: seconds before each byte."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int = 0
    trickle: float = 0.0


def completion(text: str, prompt_tokens: int = 10, new_tokens: int = 5, finish: str = "stop") -> Answer:
    message = {"role": "assistant", "content": text}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Answer(json.dumps(body))


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    return Answer(json.dumps({"error": {"message": message, "type": "x", "code": code}}), status, headers)


@dataclass(slots=True)
class Server:
    url: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[Server]:
    """`answer` gets the body of each request, with its headers under "headers"."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body["headers"] = {name.lower(): value for name, value in self.headers.items()}
            body["path"] = self.path
            with lock:
                server.calls.append(body)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            reply = answer(body)
            time.sleep(reply.delay)
            with lock:
                server.at_once -= 1
            content = reply.body.encode()
            headers = {"content-type": "application/json", "content-length": str(len(content)), **reply.headers}
            try:
                self.send_response(reply.status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                content = content[: len(content) - reply.cut]
                for piece in (bytes([byte]) for byte in content) if reply.trickle else (content,):
                    time.sleep(reply.trickle)
                    self.wfile.write(piece)
            except OSError:  # the client did not wait
                self.close_connection = True
            if reply.cut:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
