"""The pure part: value types, codecs, layout and retrieval. Imports nothing of ufo_tune but itself and errors."""
