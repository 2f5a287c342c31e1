"""Routing of groups: one session at a time is a group's router, and the journal decides which.

Rooms from top to bottom, each of which may use what is below it: `supervisor`; `reporting` and `client_service`;
`session`; `rebalance` and `clients`; `flow`, `poison` and `maintenance`; `journal`; `publish`; `broker`; and the words
that pass between them, `failpoints` and `listener` (docs/architecture.md).
"""
