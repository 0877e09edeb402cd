"""How ops are written in TFLite, a topic a file; `jaxq.export.lowering.lower.RULES` is the table."""
