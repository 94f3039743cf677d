"""S3 credentials of the caller's."""

from runai_model_streamer.s3_utils.s3_utils import S3Credentials

__all__ = ["S3Credentials"]
