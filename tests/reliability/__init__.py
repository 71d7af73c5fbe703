"""What onnx-fleet promises of a store that fails, held under faults; docs/reliability.md has promises and figures."""
