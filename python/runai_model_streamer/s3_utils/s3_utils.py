"""The original's module path of S3Credentials, which loaders of private buckets import."""

from runai_model_streamer._credentials.s3_credentials import S3Credentials

__all__ = ["S3Credentials"]
