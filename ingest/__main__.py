"""`python -P -m ingest --data DIR`: wires the transmissions API, SMTP submission and the inbox to stores and clock."""

from __future__ import annotations

from ingest.http import make_app
from ingest.inbox import InboxConsumer
from ingest.producers import load_producers
from ingest.service import HttpServer, Ingest, open_http_listener
from ingest.smtp import SmtpServer, SmtpSettings
from postfleet.accept import UNITS, Acceptor
from postfleet.arrivals import Inbox
from postfleet.backends.opening import inbox_of, open_stores
from postfleet.clock import Clock, SystemClock
from postfleet.deployment import DataDir, Deployment
from postfleet.directory import Directory
from postfleet.events import EVENTS, EventWriter
from postfleet.ports import Backends
from postfleet.process import data_dir_argument, on_terminate, run_service, system_random
from postfleet.settings import Settings


def smtp_settings(deployment: Deployment, settings: Settings) -> SmtpSettings:
    """Trusted clients may use any sender only while no mail leaves for the internet."""
    return SmtpSettings(
        hostname=deployment.host_name,
        bounce_domain=f"bounces.{deployment.sending_domain or deployment.host_name}",
        trust=deployment.trust,
        any_sender=bool(deployment.sink or deployment.route),
        max_size=settings.max_message_size,
    )


def make_inbox(
    data: DataDir,
    queue: Inbox,
    backends: Backends,
    *,
    directory: Directory,
    acceptor: Acceptor,
    clock: Clock,
    settings: Settings,
) -> InboxConsumer:
    events = EventWriter(
        blobs=backends.blobs,
        announcements=backends.queue(EVENTS),
        clock=clock,
        settings=settings,
        rng=system_random(),
    )
    return InboxConsumer(
        inbox=queue,
        producers=load_producers(data.path / "producers.toml"),
        directory=directory,
        acceptor=acceptor,
        events=events,
        settings=settings,
    )


async def main() -> int:
    data = data_dir_argument("ingest")
    settings, deployment = data.settings(), data.deployment()
    clock = SystemClock()
    listener = open_http_listener(deployment.http)
    async with await open_stores(data, clock) as backends:
        directory = Directory(backends.state, whole_every=settings.snapshot_whole)
        acceptor = Acceptor(
            blobs=backends.blobs,
            units=backends.queue(UNITS),
            state=backends.state,
            clock=clock,
            settings=settings,
            rng=system_random(),
        )
        smtp = SmtpServer(
            settings=smtp_settings(deployment, settings), directory=directory, acceptor=acceptor, clock=clock
        )
        http = HttpServer(make_app(directory, acceptor, settings), listener)
        inbox = None
        if (queue := inbox_of(backends)) is not None:
            inbox = make_inbox(
                data, queue, backends, directory=directory, acceptor=acceptor, clock=clock, settings=settings
            )
        ingest = Ingest(directory=directory, smtp=smtp, smtp_address=deployment.smtp, http=http, inbox=inbox)
        on_terminate(ingest.stop)
        await ingest.run()
    return 0


if __name__ == "__main__":
    run_service("ingest", main)
