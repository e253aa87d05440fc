"""The engines that stand in for AWS, each started once in a run and only if a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import settings
from support.aws_places import make_places
from support.engines import aws_environment, dynalite, ministack, moto_server, seaweedfs

# CI runs the same examples every time, so that a red run is about the change; other runs go on searching.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Variables that send the SDK to moto, where `PLACES` are made."""
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        variables = aws_environment(url)
        make_places(variables)
        yield variables


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Variables that send the SDK to SeaweedFS for S3, to dynalite for DynamoDB, to ministack for all else.

    `PLACES` are made there.
    """
    directory = tmp_path_factory.mktemp("engines")
    with seaweedfs(directory) as s3, dynalite(directory) as dynamodb, ministack(directory) as others:
        variables = {**aws_environment(others), "AWS_ENDPOINT_URL_S3": s3, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb}
        make_places(variables)
        yield variables
