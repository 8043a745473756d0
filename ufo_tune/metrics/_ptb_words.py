"""Words of a caption as COCO's caption scores count them, without Java.

COCO's evaluation runs Stanford's PTBTokenizer (CoreNLP 3.4.1, ``-lowerCase``) and drops the tokens
``'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;``. Here one expression finds what is left after that:

* lower case; ``do n't``, ``dog 's``, ``they 're``, ``can not``, ``gon na``; ``o'clock`` and ``ma'am`` stay whole;
* ``t-shirt``, ``a/c``, ``10:30``, ``1,000``, ``u.s.`` and ``mr.`` are one word each, ``$ 5`` and ``50 %`` are two;
* brackets become ``-lrb-``, ``-rrb-`` and so on and *stay*: COCO's list has them in capitals, after lower-casing;
* runs of several ``?`` and ``!`` stay, runs of dots and dashes go.

Equal to the original on all phrases of RefCOCO's validation and test splits (``tests/unit/test_captions.py`` compares
them where Java is). Known to differ: web addresses, ``'tis``, signed numbers, ``c++`` and fractions in one character.

Source: github.com/tylin/coco-caption, ``tokenizer/ptbtokenizer.py``; nlp.stanford.edu/software/tokenizer.shtml.
"""

from __future__ import annotations

import re

_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|rev|gen|sgt|lt|st|mt|ft|ave|blvd|rd|jr|sr|inc|co|corp|ltd|bros|vs|etc|"
    "jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|mon|tue|wed|thu|fri"
)
_WORD = re.compile(
    rf"""
      <[^<>\s]+>                                                              # <unk>
    | 'n' | '(?:em|til|cause|\d0s)\b | (?:[dlo]|ma)'[a-z]+ | y'(?=all\b)      # rock 'n' roll, o'clock
    | (?:can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b) | (?:gim|lem)(?=me\b))
    | [a-z]+(?=n't\b) | n't\b | '(?:s|m|d|re|ve|ll)\b                         # do n't, dog 's
    | (?:[a-z]\.){{2,}} | (?-i:[A-Z]+&[A-Z]+)\b | [a-z]\.(?!\w)               # u.s., AT&T, plan b.
    | (?:{_ABBREVIATIONS})\.(?!\w) | (?:no|pp)\.(?=\s*\d)
    | \d+(?:[.,:/]\d+)+                                                       # 1,000 and 10:30
    | [@\#][a-z]\w* | \w+(?:[-/.@]\w+)*                                       # t-shirt
    | [?!]{{2,}}
    | [^\s.,:;?!'"`\u201c\u201d\u2026\u2013\u2014-]                             # any other sign but punctuation
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_APOSTROPHES = str.maketrans("\u2018\u2019", "''")  # curly


def words(text: str) -> tuple[str, ...]:
    """The words of a caption; none of a text without any."""
    # Lower case comes last: "AT&T" is one word and "black&white" three.
    return tuple(_BRACKETS.get(word, word).lower() for word in _WORD.findall(text.translate(_APOSTROPHES)))
