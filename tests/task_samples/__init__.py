"""One file per task that ``tests/spoken.py`` has no sample of: ``sample()``, and ``check(found, sample)``.

``found`` is what ``decode`` makes of the words that ``encode`` put the sample into. A new task brings its own.
"""
