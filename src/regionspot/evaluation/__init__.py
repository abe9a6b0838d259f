"""The evaluation engine: runs methods, scores them, draws pictures, writes the report."""
