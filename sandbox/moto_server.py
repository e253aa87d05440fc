"""SQS and DynamoDB for the sandbox: `python -P -m sandbox.moto_server --listen HOST:PORT`. All in memory.

moto holds no lock between a look and the write. So requests take turns, but for those to SQS, which let a receive
wait: there it is enough that a thread keeps the interpreter until it waits.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from postfleet.deployment import split_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MISSING = "moto is not installed: pip install --require-hashes -r requirements-aws-sandbox.lock"
_LONGEST_TURN = 60.0
"""Seconds that a thread may keep the interpreter."""


def main() -> int:
    options = _options()
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from moto.sqs.models import DEFAULT_SENDER_ID
        from werkzeug.serving import make_server
    except ImportError:
        sys.stderr.write(f"{MISSING}\n")
        return 2
    if options.producers and not options.producers.exists():
        options.producers.write_text(f'[[producer]]\nid = "{DEFAULT_SENDER_ID}"\ntenant = 0\n')
    sys.setswitchinterval(_LONGEST_TURN)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = options.listen
    moto = in_turn(DomainDispatcherApplication(create_backend_app))
    make_server(host, port, moto, threaded=True, request_handler=MotoRequestHandler).serve_forever()
    return 0


def in_turn(moto: WSGIApplication) -> WSGIApplication:
    turn = threading.Lock()

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AmazonSQS"):
            return moto(environ, start_response)
        with turn:
            return moto(environ, start_response)

    return serve


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox.moto_server")
    parser.add_argument("--listen", type=split_address, required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--producers", type=Path, help="file that is to name, for tenant 0, whom SQS will give as sender of everything"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
