"""Validation of the documents and turns that clients send: types, bounds and encodings.

Whatever is accepted must be writable: nesting over 64, integers beyond signed 64 bits, lone surrogates and
times that Go can't read are refused here, also inside unknown members, which are passed through.
"""
