"""TFLite bytes: write, read, verify. Alone in knowing the schema."""
