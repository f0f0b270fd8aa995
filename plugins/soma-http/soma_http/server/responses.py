"""Answers in JSON, whatever the texts in them are: a model may name a file that is not UTF-8."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse


class JsonResponse(JSONResponse):
    """An answer in JSON; what is not Unicode in its texts is escaped, as every JSON may be."""

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")
