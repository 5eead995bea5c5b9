"""JSON of options, in which numpy's numbers may be."""

import json


def dumps(value):
    return json.dumps(value, default=_plain)


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be in a config; expected a number, a string, a list or a dict")
