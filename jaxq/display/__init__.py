"""How text and progress are shown on a terminal."""
