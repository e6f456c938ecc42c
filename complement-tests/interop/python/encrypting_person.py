"""A client of matrix-nio that encrypts, told what to do by lines of JSON on standard input:
{"do": "join", "room"}, {"do": "say", "room", "body"}. On standard output it says who it is and what
it sees: {"user_id"}, {"invite"}, {"joined"}, {"said"}, {"read", "body"}, {"unreadable"}.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile

from nio import (
    AsyncClient,
    AsyncClientConfig,
    InviteMemberEvent,
    MegolmEvent,
    RoomMessageText,
    SyncResponse,
)


def tell(**line):
    print(json.dumps(line), flush=True)


class Person:
    def __init__(self, directory):
        # Retries as long as the server is away.
        config = AsyncClientConfig(
            max_timeouts=None,
            backoff_factor=0.1,
            max_timeout_retry_wait_time=1,
            encryption_enabled=True,
        )
        name = f"nio-{secrets.token_hex(4)}"
        self.client = AsyncClient(
            os.environ["HOMESERVER_URL"], name, store_path=directory, config=config
        )
        self.synced = asyncio.Condition()
        self.client.add_event_callback(self._invite, InviteMemberEvent)
        self.client.add_event_callback(self._message, RoomMessageText)
        self.client.add_event_callback(self._unreadable, MegolmEvent)

    async def _invite(self, room, event):
        if event.state_key == self.client.user_id and event.membership == "invite":
            tell(invite=room.room_id)

    async def _message(self, room, event):
        assert event.decrypted, event
        tell(read=event.event_id, body=event.body)

    async def _unreadable(self, room, event):
        tell(unreadable=event.event_id)

    async def sync(self):
        while True:
            response = await self.client.sync(timeout=10_000)
            if not isinstance(response, SyncResponse):
                await asyncio.sleep(1)
                continue
            if self.client.should_upload_keys:
                await self.client.keys_upload()
            if self.client.should_query_keys:
                await self.client.keys_query()
            async with self.synced:
                self.synced.notify_all()

    async def join(self, line):
        room = line["room"]
        await self.client.join(room)
        async with self.synced:
            await self.synced.wait_for(
                lambda: room in self.client.rooms and self.client.rooms[room].encrypted
            )
        tell(joined=room)

    async def say(self, line):
        content = {"msgtype": "m.text", "body": line["body"]}
        response = await self.client.room_send(
            line["room"], "m.room.message", content, ignore_unverified_devices=True
        )
        tell(said=response.event_id)

    async def run(self):
        response = await self.client.register(self.client.user, "a good password")
        assert response.access_token, response
        syncing = asyncio.create_task(self.sync())
        # A failure there ends everything.
        syncing.add_done_callback(lambda task: os._exit(1) if task.exception() else None)
        tell(user_id=response.user_id)
        while line := await asyncio.to_thread(sys.stdin.readline):
            line = json.loads(line)
            await {"join": self.join, "say": self.say}[line["do"]](line)
        os._exit(0)


async def main():
    with tempfile.TemporaryDirectory() as directory:
        await Person(directory).run()


asyncio.run(main())
