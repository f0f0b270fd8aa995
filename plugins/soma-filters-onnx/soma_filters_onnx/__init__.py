"""soma_filters_onnx: ONNX models as soma filters; ONNX Runtime is imported when one is loaded."""
