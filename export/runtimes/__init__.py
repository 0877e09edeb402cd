"""The native interpreters that judge a file: LiteRT and TFLite Micro."""
