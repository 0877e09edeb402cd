"""How ops are written in TFLite, a topic a file; `jaxq.export.lower.RULES` is the table."""
