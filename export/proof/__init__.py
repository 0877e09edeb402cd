"""Whether two readings of a model give the same integers, and where not, which operator is first."""
