"""The step from a work item to a stage with graphs."""
