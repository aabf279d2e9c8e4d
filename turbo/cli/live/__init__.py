"""`turbo top` on the screen, with Textual: the application, its table, and the log of one task."""
