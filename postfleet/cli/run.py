"""`postfleet run`: one service in this process's place."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from postfleet.cli.options import DATA, DataOption, platform


class Service(StrEnum):
    INGEST = "ingest"
    ROUTER = "router"
    MTA_WORKER = "mta_worker"
    IP_PROXY = "ip_proxy"
    REPORTING = "reporting"
    CONTROL = "control"
    SANDBOX = "sandbox"


def run(
    context: typer.Context,
    service: Annotated[Service, typer.Argument(help="Which one.")],
    data: DataOption = DATA,
) -> None:
    """Run one service until it is told to stop. Further arguments are passed on to it.

    The proxy knows no data directory: `postfleet run ip_proxy --listen H:P --health H:P --key-file F --source IP`.
    """
    here = [] if service is Service.IP_PROXY else ["--data", str(platform(data).path)]
    command = [sys.executable, "-P", "-m", service.value, *here, *context.args]
    os.execv(sys.executable, command)  # noqa: S606 - the interpreter itself, without a shell
