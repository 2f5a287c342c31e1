"""Routing of groups: one session at a time is a group's router, and the journal decides which."""
