"""The near cache: answers validations from memory while a stream from the authority keeps the answers valid."""
