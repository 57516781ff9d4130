"""The Benchmark page: plans, results, charts, history."""
