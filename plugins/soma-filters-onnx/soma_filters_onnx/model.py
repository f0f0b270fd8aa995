"""Model: an ONNX model as a filter, run by a session of ONNX Runtime."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PrivateAttr, model_validator

from soma_core import Filter, FilterMeta
from soma_core.configuration import check_file
from soma_filters_onnx.feeding import feeds, named_outputs


def _as_bytes(value: Any) -> Any:
    """Base64, as JSON has bytes, as bytes."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a model in JSON is base64: {error}") from None


def _as_base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


Content = Annotated[
    bytes | None, BeforeValidator(_as_bytes), PlainSerializer(_as_base64, when_used="json")
]

_STATE = "model"


class Model(Filter):
    """An ONNX model. Its input and output are arrays, or dicts of arrays by name.

    Attributes:
        path: The file of the model, where the worker runs.
        model: The model itself, in place of ``path``: bytes, in JSON as base64. Without either, it
            comes as the state ``{"model": bytes}``.
        outputs: Which outputs to return; None for all. One alone is returned as it is, several
            as a dict by name.
        providers: What runs the model, the first that can: ``["CUDAExecutionProvider",
            "CPUExecutionProvider"]``. The worker must have each of them.
        threads: How many threads work on one operator; None leaves it to ONNX Runtime.
        parallel_threads: How many operators run beside each other; None for one after the other.
        optimization: How far ONNX Runtime rewrites the model before it runs it.
        rowwise: Whether each row of the output comes from the same row of the input alone, so that
            a pool may join calls.
    """

    path: str | None = None
    model: Content = Field(default=None, repr=False)
    outputs: Annotated[list[str], Field(min_length=1)] | None = None
    providers: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: ["CPUExecutionProvider"]
    )
    threads: Annotated[int, Field(ge=1)] | None = None
    parallel_threads: Annotated[int, Field(ge=1)] | None = None
    optimization: Literal["disable", "basic", "extended", "all"] = "all"
    rowwise: bool = False
    _session: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if self.path is not None and self.model is not None:
            raise ValueError("path and model are both given; a model comes from one of them")
        return self

    def meta(self) -> FilterMeta:
        """What is known of it: it does not learn, and equal inputs give equal outputs."""
        return FilterMeta(name="onnx.Model", rowwise=self.rowwise)

    def on_load(self) -> None:
        """Open the model that is configured.

        Raises:
            ValueError: The worker lacks a provider or may read no such file, or the model has no
                such output.
            Exception: What ONNX Runtime raises where it cannot read the model.
        """
        source = self.path if self.model is None else self.model
        if isinstance(source, str):
            check_file(source)
        if source is not None:
            self._session = self._open(source)

    def prepare(self, state: Any) -> Any:
        """The session of the model in a state; of the one that is configured, where there is none.

        Raises:
            ValueError: There is no model.
        """
        given = state.get(_STATE) if isinstance(state, dict) else None
        if given is not None:
            return self._open(bytes(given))
        if self._session is None:
            self.on_load()
        if self._session is None:
            raise ValueError(
                'onnx.Model has no model: configure path or model, or send the state {"model": …}'
            )
        return self._session

    def forward(self, x: Any, state: Any, prepared: Any = None) -> Any:
        """Run the model.

        Args:
            x: Its input; a dict by name where it has several. Lists become arrays, tensors too;
                numbers take the type that the model wants, if that is of the same kind.
            state: ``{"model": bytes}``, or what is configured is run.
            prepared: The session.

        Returns:
            Its output; a dict by name where it has several.

        Raises:
            ValueError: An input is missing, unknown, or of another kind.
        """
        session = self.prepare(state) if prepared is None else prepared
        return named_outputs(session, session.run(self.outputs, feeds(session, x)), self.outputs)

    def __getstate__(self) -> dict[Any, Any]:
        copied = super().__getstate__()
        return {**copied, "__pydantic_private__": {"_session": None}}

    def _open(self, source: str | bytes) -> Any:
        import onnxruntime

        available = onnxruntime.get_available_providers()
        missing = [name for name in self.providers if name not in available]
        if missing:
            raise ValueError(
                f"providers: {', '.join(missing)} is not in this worker; it has "
                f"{', '.join(available)}"
            )
        options = self._options(onnxruntime)
        if isinstance(source, bytes):  # its tensors must not name files of this machine
            options.add_session_config_entry(_EXTERNAL, os.devnull)
        session = onnxruntime.InferenceSession(
            source, sess_options=options, providers=self.providers
        )
        known = [output.name for output in session.get_outputs()]
        unknown = [name for name in self.outputs or () if name not in known]
        if unknown:
            raise ValueError(
                f"outputs: the model has no {', '.join(unknown)}; it has {', '.join(known)}"
            )
        return session

    def _options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = getattr(levels, f"ORT_{_LEVELS[self.optimization]}")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.parallel_threads is not None:
            options.inter_op_num_threads = self.parallel_threads
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        return options


_EXTERNAL = "session.model_external_initializers_file_folder_path"
_LEVELS = {
    "disable": "DISABLE_ALL",
    "basic": "ENABLE_BASIC",
    "extended": "ENABLE_EXTENDED",
    "all": "ENABLE_ALL",
}
