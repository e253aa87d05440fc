"""Implementations of the ports: `local_*` on one machine's disk, `aws_*` on S3, SQS and DynamoDB."""
