"""The book: run its chapters, remember what they depended on, and turn them into pages."""
