"""The SQS backend: on look-alikes of SQS, and on one that behaves as badly as SQS may."""
