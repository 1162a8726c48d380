"""The tables of the queue file, and why they are as they are.

* A message is *ready* (neither owner nor visible_at), *owned* (leased to a session) or *parked* (visible_at is when it
  becomes ready). Each state has a partial index of its own, so that taking the next message costs the same whether
  a million are ready or a hundred thousand are parked.
* Bodies are in a table of their own: taking a message rewrites its small row, never its body.
* AUTOINCREMENT: an id is never used again, so that a tag ``id.attempt`` names one handing-out for all time.
* A lease is a session's, not a message's: one row to renew however many deliveries are out, and one row that runs out
  when a process is killed.
"""

from __future__ import annotations

from greenworker.broker.sqlite.database import Schema

QUEUE_SCHEMA = Schema(
    application_id=0x67_77_6B_71,  # "gwkq"
    version=1,
    script=(
        """CREATE TABLE queues (
            name TEXT PRIMARY KEY,
            expires_after REAL,            -- seconds without a consumer after which the queue goes; NULL: never
            expires_at REAL,               -- Unix time
            message_ttl REAL               -- seconds
        ) WITHOUT ROWID""",
        "CREATE TABLE exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE bindings (
            exchange TEXT NOT NULL,
            routing_key TEXT NOT NULL,
            queue TEXT NOT NULL,
            PRIMARY KEY (exchange, routing_key, queue)
        ) WITHOUT ROWID""",
        "CREATE INDEX bindings_of_queue ON bindings (queue)",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            priority INTEGER NOT NULL,
            attempt INTEGER NOT NULL DEFAULT 0,  -- how often it was handed out
            owner INTEGER,                 -- the session that has it
            visible_at REAL,               -- Unix time at which a parked message becomes ready
            expires_at REAL                -- Unix time
        )""",
        """CREATE INDEX messages_ready ON messages (queue, priority DESC, id)
            WHERE owner IS NULL AND visible_at IS NULL""",
        "CREATE INDEX messages_parked ON messages (queue, visible_at) WHERE visible_at IS NOT NULL",
        "CREATE INDEX messages_owned ON messages (owner) WHERE owner IS NOT NULL",
        "CREATE INDEX messages_expiring ON messages (expires_at) WHERE expires_at IS NOT NULL AND owner IS NULL",
        "CREATE TABLE contents (id INTEGER PRIMARY KEY, head TEXT NOT NULL, body NOT NULL)",
        """CREATE TRIGGER contents_go AFTER DELETE ON messages
            BEGIN DELETE FROM contents WHERE id = old.id; END""",
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            boot TEXT NOT NULL,            -- the boot id of the machine, since lease_until counts from its boot
            lease_until REAL NOT NULL      -- CLOCK_MONOTONIC seconds; 0: given up, its messages are being handed on
        )""",
    ),
)
