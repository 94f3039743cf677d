"""The original's package of S3Credentials, for programs that give them to stream_files()."""

from runai_model_streamer._credentials.s3_credentials import S3Credentials

__all__ = ["S3Credentials"]
