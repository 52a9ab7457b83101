"""A library of files, analysed by background jobs: the work behind ``jobbus demo``.

Begin with ``jobs.py``. The job types are in ``library.jobs:bus``.
"""
