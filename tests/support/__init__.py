"""Shared by the tests: plain clients that report what they see, and the auditor that judges it."""
