"""`postfleet up` on AWS: which bucket, table and queues, and what stands in for AWS where the sandbox's is wanted."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence

import httpx

from postfleet.accept import UNITS
from postfleet.arrivals import INBOX
from postfleet.backends.opening import enter
from postfleet.cli.platform import AwsChoices, free_address
from postfleet.cli.supervisor import Service, StartFailed, Supervisor
from postfleet.deployment import AwsPlaces, DataDir, Deployment, write_private
from postfleet.events import EVENTS
from postfleet.ports import StorageError
from postfleet.providers import LANES

NAME = "postfleet"
QUEUES = (UNITS, *LANES, EVENTS, INBOX)
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
ALOOF = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""Keep the SDK from all that this machine may know of AWS."""
ENGINES_WITHIN = 60.0


def check_same_stores(data: DataDir, choices: AwsChoices | None) -> None:
    """Mail that was accepted in other stores would stay there. Raises `StartFailed`."""
    if not (data.path / "run.json").exists():
        return
    before, now = _kind_of(data.deployment().aws), _kind_chosen(choices)
    if before != now:
        raise StartFailed(f"{data.path} has its stores {before}, not {now}; choose that, or another --data DIR")


def _kind_of(places: AwsPlaces | None) -> str:
    return _kind_chosen(None if places is None else AwsChoices(places.sandbox))


def _kind_chosen(choices: AwsChoices | None) -> str:
    if choices is None:
        return "on this machine"
    return "in the AWS sandbox (--aws-sandbox)" if choices.sandbox else "on AWS (--aws)"


async def choose_places(data: DataDir, choices: AwsChoices, supervisor: Supervisor) -> AwsPlaces:
    """Started, where they are the sandbox's. From here on this process's environment leads there."""
    if choices.sandbox:
        variables = await start_sandbox(data, supervisor)
        places = AwsPlaces(choices.bucket or NAME, choices.table or NAME, choices.queue_prefix or f"{NAME}-", variables)
    else:
        places = await _places_on_aws(data, choices)
    enter(places)
    return places


async def _places_on_aws(data: DataDir, choices: AwsChoices) -> AwsPlaces:
    """What is not chosen is as it was the last time, else named after the platform; buckets share one name space."""
    from postfleet.backends.aws_setup import account_and_region

    known = data.deployment().aws if (data.path / "run.json").exists() else None
    try:
        account, region = await account_and_region()
    except StorageError as error:
        raise StartFailed(f"--aws: {error}") from None
    return AwsPlaces(
        bucket=choices.bucket or (known.bucket if known else f"{NAME}-{account}-{region}"),
        table=choices.table or (known.table if known else NAME),
        queue_prefix=choices.queue_prefix or (known.queue_prefix if known else f"{NAME}-"),
        variables={"AWS_REGION": region, **_endpoints()},
    )


def _endpoints() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}


async def make_missing(data: DataDir, places: AwsPlaces) -> None:
    from postfleet.backends.aws import create_missing

    try:
        await create_missing(places, data.settings(), QUEUES)
    except StorageError as error:
        raise StartFailed(str(error)) from None


def inbox_lines(data: DataDir, deployment: Deployment) -> Sequence[str]:
    """For the banner: how programs hand mail over by SQS."""
    if deployment.aws is None:
        return ()
    example = (
        f"python examples/producer_raw_boto3.py --queue {deployment.aws.queue_prefix}{INBOX}"
        f" --from hello@{deployment.sending_domain} --to-domain inbox1.example"
    )
    if not deployment.aws.sandbox:
        return ("Send by SQS, as a producer that producers.toml names (docs/sqs-inbox.md):", "", f"  {example}", "")
    exports = [f"  {line}" for line in shell_lines(deployment.aws.variables).splitlines() if "_ENDPOINT_URL" in line]
    return (
        f"Programs find this AWS with `. {data.path / 'aws.env'}`, which says, beside region and credentials:",
        *("", *exports, "", "Send by SQS:", "", f"  {example}", ""),
    )


# ---------------------------------------------------------------- the sandbox's AWS


async def start_sandbox(data: DataDir, supervisor: Supervisor) -> Mapping[str, str]:
    """moto and SeaweedFS on loopback; the variables that lead the SDK there, and `aws.env` that says them to shells.

    moto keeps rows and queues in memory, so that what was there before has come to nothing, and goes.
    """
    _forget(data)
    moto, s3 = free_address("", "127.0.0.1:0"), free_address("", "127.0.0.1:0")
    producers, directory = str((data.path / "producers.toml").resolve()), str((data.path / "aws").resolve())
    moto_arguments = ("--listen", moto, "--producers", producers)
    s3_arguments = ("--listen", s3, "--directory", directory)
    await supervisor.start(
        [
            Service("aws-moto", "sandbox.moto_server", moto_arguments, rank=7, grace=0, vital=True),
            Service("aws-s3", "sandbox.seaweedfs", s3_arguments, rank=7, grace=0, vital=True),
        ]
    )
    await _answering(f"http://{moto}", f"http://{s3}")
    variables = {
        "AWS_ENDPOINT_URL": f"http://{moto}",
        "AWS_ENDPOINT_URL_S3": f"http://{s3}",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        **CREDENTIALS,
        **ALOOF,
    }
    write_private(data.path / "aws.env", shell_lines(variables).encode())
    return variables


def shell_lines(variables: Mapping[str, str]) -> str:
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    return "".join(["unset AWS_PROFILE AWS_SESSION_TOKEN\n", *exports])


def _forget(data: DataDir) -> None:
    for folder in (data.path / "aws", data.loads):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (data.ledger, data.inbox):
        file.unlink(missing_ok=True)


async def _answering(*urls: str) -> None:
    try:
        async with asyncio.timeout(ENGINES_WITHIN), httpx.AsyncClient(trust_env=False) as client:
            for url in urls:
                while not await _answers(client, url):  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise StartFailed(f"the sandbox's AWS does not answer at {url} within {ENGINES_WITHIN:.0f} s") from None


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        await client.get(url)
    except httpx.HTTPError:
        return False
    return True
