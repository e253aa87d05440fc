"""moto's server in a process of its own: says its URL, and goes when its stdin closes.

moto holds no lock between a look and the write. So requests take turns, but for those to SQS, which let a receive
wait: there it is enough that a thread keeps the interpreter until it waits.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

moto = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def in_turn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AmazonSQS"):
        return moto(environ, start_response)
    with turn:
        return moto(environ, start_response)


sys.setswitchinterval(60.0)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, in_turn, threaded=True, request_handler=MotoRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
