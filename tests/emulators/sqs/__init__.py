"""Amazon SQS on a bad day."""
