"""Answers validations from memory, for as long as a stream from the authority vouches for them."""
