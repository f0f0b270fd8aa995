"""Definitions: classes and functions that travel whole, since only their program has them.

Those of a script, a notebook or a module that the other side cannot import are pickled by value.
Each has a token that the process which defined it gave it. So

* the process that defined one finds it again by its token when it comes back, and changes nothing;
* the process that received one keeps it until its content changes, with what its code has stored
  in the meantime;
* two programs that define the same class share one class in the worker that serves both.

Code keeps its file and its lines; the text of a notebook's cell travels with it.
"""
