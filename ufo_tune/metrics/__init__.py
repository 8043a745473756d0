"""Evaluation numbers, one file each: ``Metric(**options)`` with ``update``, ``merge``, ``compute``."""
