"""Tests on real captioned pictures."""
