"""The kit measured against what anybody would use instead: `python -m benchmarks`."""
