"""The egress proxy: owns sending IPs, counts what each of them has open, holds sockets and nothing else."""
