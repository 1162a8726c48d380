"""Results in Redis, under Celery's keys and in its documents: either side reads what the other has stored.

A result is one key, ``celery-task-meta-<task id>``, that expires, and a message on the channel of the same name, which
ends the wait of those who wait: both are one script, so both are there or neither. The script keeps SUCCESS final, too.
Redis does not know how a document is encoded, so the script looks for the status where each serializer writes it.

Batches go out in one pipeline; 1,000 greenlets that store or wait share ``[results] connections`` connections, one of
them for all that is subscribed to.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence

from redis.exceptions import ResponseError

from greenworker.broker.redis.link import meaning_of
from greenworker.broker.redis.scripts import Script, ScriptCall
from greenworker.errors import ResultsAwayError, ResultsError
from greenworker.protocol.results import ResultMeta
from greenworker.results.base import ResultsOptions
from greenworker.results.record import Record, RefusedRecordError
from greenworker.results.redis_channels import RedisChannels
from greenworker.results.redis_links import RedisLinks
from greenworker.results.written import WrittenResults, final, is_final
from greenworker.settings.secrets import mask_url

logger = logging.getLogger(__name__)

KEY_PREFIX = "celery-task-meta-"
CALL_TIMEOUT = 10.0  # seconds that Redis may take to answer
POLL_INTERVAL = 5.0  # seconds between looks for a result whose message may have been lost
LARGEST_BYTES = 512 * 1024 * 1024  # Redis' own limit of a value, where it does not tell another one
SUSPECT_BYTES = 1024 * 1024  # from this size on, a record may be why Redis, or what stands before it, hangs up
SUSPECT_TRIES = 3

# KEYS: the task's key. ARGV: document, seconds until it expires (0: never). Returns 1, or 0 where SUCCESS stands.
# json, msgpack and pickle (protocols from 4 on, and 2) write the status first; yaml sorts its keys, and nothing else
# begins a line there.
STORE = Script(r"""
local head = redis.call('GETRANGE', KEYS[1], 0, 63)
local final = string.find(head, '^{"status": ?"SUCCESS"')
    or string.find(head, '^.\166status\167SUCCESS')
    or string.find(head, '^\128.\149........}\148%(\140\6status\148\140\7SUCCESS')
    or string.find(head, '^\128.}q.%(X\6%z%z%zstatusq.X\7%z%z%zSUCCESS')
if not final and string.find(head, '^children:') then
    final = string.find(redis.call('GET', KEYS[1]), '\nstatus: SUCCESS\n', 1, true)
end
if final then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
""")

# Errors that are about one record, whatever else Redis takes: any other will pass, or be mended by the operator.
_REFUSALS = re.compile(r"WRONGTYPE|exceeds maximum allowed size|invalid bulk length|Protocol error")


class RedisResults(WrittenResults):
    """The ResultStore (results/base.py) of a Redis server, or of the master that sentinels name."""

    def __init__(self, url: str, options: ResultsOptions) -> None:
        super().__init__(mask_url(url), options)
        self._expires = "0" if not options.expires else str(max(1, math.ceil(options.expires)))
        self._links = RedisLinks(url, options.connecting, max(1, options.connections - 1))
        self._channels = RedisChannels(self._links.open)
        self._largest_bytes: int | None = None  # as Redis says, once it was asked; this and the next: the writer's
        self._suspect: tuple[Record | None, int] = None, 0  # and how often Redis has hung up on it

    def start(self) -> None:
        """Raises ResultsError where Redis refuses the worker's login; one that is away may come back."""
        self._links.reopen()
        self.writer.start()
        if self.options.create:
            try:
                self._links.ask(("PING",), CALL_TIMEOUT)
            except ResultsAwayError as exc:
                logger.error("%s. Tasks run all the same, and their acknowledgements wait.", exc)

    def stop(self) -> None:
        self.writer.stop()
        self._channels.close()
        self._links.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, task_id: str) -> ResultMeta | None:
        document = self._links.ask(("GET", KEY_PREFIX + task_id), CALL_TIMEOUT)
        return None if document is None else self._decoded(task_id, document)

    def wait(self, task_id: str, timeout: float) -> ResultMeta:
        deadline = time.monotonic() + timeout
        meta = self.get(task_id)
        if not is_final(meta):
            with self._channels.listening(KEY_PREFIX + task_id) as listener:
                while not is_final(meta) and (left := deadline - time.monotonic()) > 0:
                    document = listener.next(min(left, POLL_INTERVAL))
                    meta = self.get(task_id) if document is None else self._decoded(task_id, document)
        return final(meta, task_id, timeout)

    def forget(self, task_id: str) -> None:
        self._links.ask(("DEL", KEY_PREFIX + task_id), CALL_TIMEOUT)

    def _decoded(self, task_id: str, document: bytes) -> ResultMeta:
        return self.decoded(task_id, document, self.content_type, self.content_encoding)

    # --- writing, by the writer's thread ------------------------------------------------------------------------

    def write(self, batch: Sequence[Record]) -> Mapping[Record, Exception]:
        largest = self._largest()
        failed: dict[Record, Exception] = {
            record: RefusedRecordError(f"Redis takes {largest} bytes at most")
            for record in batch
            if record.size > largest
        }
        small = [record for record in batch if record not in failed]
        try:
            replies = self._links.call([self._store(record) for record in small], CALL_TIMEOUT) if small else []
        except ResultsAwayError as exc:
            self._largest_bytes = None  # it may be another server by now, or another limit
            if len(small) != 1 or not self._is_culprit(small[0]):
                raise
            failed[small[0]] = RefusedRecordError(f"Redis hangs up on it: {exc}")
            return failed
        for record, reply in zip(small, replies, strict=True):
            if isinstance(reply, ResponseError):
                failed[record] = _reason(reply)
        return failed

    def _store(self, record: Record) -> ScriptCall:
        return STORE((KEY_PREFIX + record.task_id,), record.body, self._expires)

    def _is_culprit(self, record: Record) -> bool:
        """Whether Redis, which answers else, has hung up on this large record time and again."""
        self._links.ask(("PING",), CALL_TIMEOUT)
        before, tries = self._suspect
        self._suspect = record, (tries + 1 if before is record else 1)
        return record.size > SUSPECT_BYTES and self._suspect[1] >= SUSPECT_TRIES

    def _largest(self) -> int:
        """What Redis takes in one value. It hangs up on more, which would look as if it were away."""
        if self._largest_bytes is None:
            limits = []
            for name in ("proto-max-bulk-len", "client-query-buffer-limit"):
                [reply] = self._links.call([("CONFIG", "GET", name)], CALL_TIMEOUT)
                if isinstance(reply, list) and len(reply) == 2:  # an ACL may forbid it
                    limits.append(int(reply[1]))
            self._largest_bytes = min([LARGEST_BYTES, *limits])
        return self._largest_bytes


def _reason(reply: ResponseError) -> Exception:
    text = meaning_of(reply)
    return RefusedRecordError(text) if _REFUSALS.search(str(reply)) else ResultsError(f"Redis refuses: {text}")
