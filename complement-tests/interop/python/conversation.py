"""Two users of matrix-nio talk through the homeserver at HOMESERVER_URL, which is killed meanwhile.

The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
request and wait until it is answered on standard input.
"""

import asyncio
import os
import secrets
import sys

from nio import (
    AsyncClient,
    AsyncClientConfig,
    InviteMemberEvent,
    ReceiptEvent,
    RoomMessageText,
    SyncResponse,
    TypingNoticeEvent,
)

LIMIT_SECONDS = 120


async def ask(what):
    print(f"please {what}", flush=True)
    answer = await asyncio.to_thread(sys.stdin.readline)
    assert answer.strip() == f"done {what}", answer


class Person:
    """A client that syncs all the time and remembers what it saw."""

    def __init__(self, name):
        # Retries as long as the server is away, as a client in somebody's pocket does.
        config = AsyncClientConfig(max_timeouts=None, backoff_factor=0.1, max_timeout_retry_wait_time=1)
        self.client = AsyncClient(os.environ["HOMESERVER_URL"], f"{name}-{secrets.token_hex(4)}", config=config)
        self.invites = []
        self.messages = []
        self.typing = []
        self.receipts = []
        self.news = asyncio.Condition()
        self.client.add_event_callback(self._invite, InviteMemberEvent)
        self.client.add_event_callback(self._message, RoomMessageText)
        self.client.add_ephemeral_callback(self._typing, TypingNoticeEvent)
        self.client.add_ephemeral_callback(self._receipt, ReceiptEvent)

    async def register(self):
        response = await self.client.register(self.client.user, "a good password")
        assert response.access_token, response
        self.user_id = response.user_id
        self.task = asyncio.create_task(self._sync())

    async def _sync(self):
        while True:
            response = await self.client.sync(timeout=10_000)
            if not isinstance(response, SyncResponse):
                print(f"{self.client.user}: {response}", flush=True)
                await asyncio.sleep(1)
            async with self.news:
                self.news.notify_all()

    async def _invite(self, room, event):
        if event.state_key == self.user_id and event.membership == "invite":
            self.invites.append(room.room_id)

    async def _message(self, room, event):
        self.messages.append((event.sender, event.body))

    async def _typing(self, room, event):
        self.typing = event.users

    async def _receipt(self, room, event):
        self.receipts += [(receipt.user_id, receipt.event_id) for receipt in event.receipts]

    async def until(self, what, predicate):
        async with self.news:
            while not predicate(self):
                await self.news.wait()
        print(f"{self.client.user}: {what}", flush=True)

    async def say(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        response = await self.client.room_send(room_id, "m.room.message", content)
        return response.event_id

    async def close(self):
        self.task.cancel()
        await self.client.close()


async def converse():
    alice, bob = Person("alice"), Person("bob")
    await alice.register()
    await bob.register()

    room_id = (await alice.client.room_create(name="Kitchen", invite=[bob.user_id])).room_id
    await bob.until("sees the invite", lambda self: room_id in self.invites)
    await bob.client.join(room_id)
    await alice.until(
        "sees bob in the room",
        lambda self: bob.user_id in self.client.rooms[room_id].users
        and bob.user_id not in self.client.rooms[room_id].invited_users,
    )

    expected = []

    async def exchange(first, second, body):
        """`first` types and speaks, `second` reads it."""
        await first.client.room_typing(room_id, True, 30_000)
        await second.until("sees typing", lambda self: first.user_id in self.typing)
        event_id = await first.say(room_id, body)
        expected.append((first.user_id, body))
        await first.client.room_typing(room_id, False)
        await second.until("sees the message", lambda self: expected[-1] in self.messages)
        await second.until("sees the end of typing", lambda self: first.user_id not in self.typing)
        response = await second.client.update_receipt_marker(room_id, event_id)
        assert type(response).__name__ == "UpdateReceiptMarkerResponse", response
        await first.until("sees the receipt", lambda self: (second.user_id, event_id) in self.receipts)

    await exchange(alice, bob, "Hello, Bob!")
    await exchange(bob, alice, "Hello, Alice! 🥣")

    for number in range(3):
        await alice.say(room_id, f"before {number}")
        expected.append((alice.user_id, f"before {number}"))
    await ask("kill")
    # Sent while nobody answers; the client tries again until somebody does.
    meanwhile = asyncio.create_task(bob.say(room_id, "meanwhile"))
    await asyncio.sleep(0.5)
    assert not meanwhile.done(), "somebody answered for the dead server"
    await ask("start")
    await meanwhile
    expected.append((bob.user_id, "meanwhile"))

    await exchange(alice, bob, "Are you still there?")
    await exchange(bob, alice, "Still here.")
    for person in (alice, bob):
        await person.until("has seen everything", lambda self: len(self.messages) >= len(expected))
        assert person.messages == expected, f"{person.messages}\nexpected {expected}"
        await person.close()


asyncio.run(asyncio.wait_for(converse(), LIMIT_SECONDS))
print("conversation complete")
