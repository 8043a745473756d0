"""Exceptions of ufo_tune: one per layer, so that the command line can tell the user's errors from ours.

Every message reads ``<where>: <what is wrong> (got <value>); <what would be right>``.
"""


class UfoTuneError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits with 2."""


class ConfigError(UfoTuneError):
    """A recipe, protocol, template or command-line option is wrong."""


class DataError(UfoTuneError):
    """A dataset, annotation or image is wrong; the message starts with ``Sample.source`` or file and line."""


class ModelError(UfoTuneError):
    """Weights, tokenizer or codec do not fit together."""


class EvalError(UfoTuneError):
    """Predictions cannot be scored."""
