"""Teacher records: what a teacher said of every example, written once and read as a teacher like any other.

    Record.capture("record", teacher, data, signals={".logits": "topk=10"}, views={"x": 30}, seed=0)
    Run(student, teacher=Cached("record"), data=data, seed=0, ...)

format.py (files and checksums), identity.py (of what), encodings.py, capture.py, cached.py, inspect.py.
"""

from limbeck.records.cached import Cached
from limbeck.records.encodings import Dense, Encoding, Head, Quantised, Sampled, TopK
from limbeck.records.format import Record

__all__ = ["Cached", "Dense", "Encoding", "Head", "Quantised", "Record", "Sampled", "TopK"]
