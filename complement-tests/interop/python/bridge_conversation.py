"""Somebody with an encrypting client (matrix-nio) talks with another network over the bridge in
bridge.py (mautrix). Bridge and homeserver are killed in the middle; nothing may be lost or doubled.

The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
request and wait until it is answered on standard input.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path

from nio import AsyncClient, AsyncClientConfig, MegolmEvent, RoomMessageText, SyncResponse

LIMIT_SECONDS = 150
ALIAS = "#_net_lobby:complement.test"
NAME = f"alice-{secrets.token_hex(4)}"
ALICE = f"@{NAME}:complement.test"
BOB = "@_net_bob:complement.test"


async def ask(what):
    print(f"please {what}", flush=True)
    answer = await asyncio.to_thread(sys.stdin.readline)
    assert answer.strip() == f"done {what}", answer


class OtherNetwork:
    """What is on the other side of the bridge. It sends again what was not acknowledged."""

    def __init__(self, directory):
        self.directory = directory
        self.lines = []
        self.unacknowledged = {}
        self.sent = 0
        self.news = asyncio.Condition()

    async def start_bridge(self):
        script = Path(__file__).with_name("bridge.py")
        self.bridge = await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "BRIDGE_DIRECTORY": self.directory, "PUPPET": NAME},
        )
        self.stopped = False
        self.reader = asyncio.create_task(self._read(self.bridge.stdout))
        for line in self.unacknowledged.values():
            self._write(line)

    async def kill_bridge(self):
        self.bridge.kill()
        await self.bridge.wait()
        await self.reader

    async def _read(self, stream):
        async for line in stream:
            print(f"bridge: {line.decode().rstrip()}", flush=True)
            line = json.loads(line)
            self.unacknowledged.pop(line.get("sent"), None)
            async with self.news:
                self.lines.append(line)
                self.news.notify_all()
        self.stopped = True
        async with self.news:
            self.news.notify_all()

    def _write(self, line):
        self.bridge.stdin.write(json.dumps(line).encode() + b"\n")

    def say(self, who, body):
        self.sent += 1
        line = {"id": f"{self.sent}", "from": who, "body": body}
        self.unacknowledged[line["id"]] = line
        self._write(line)

    async def until(self, what, predicate):
        async with self.news:
            while not predicate(self):
                assert not self.stopped, "the bridge has stopped"
                await self.news.wait()
        print(f"other network: {what}", flush=True)

    def heard(self):
        """Messages from Matrix, each once: the event ID tells."""
        return list({line["event"]: line["body"] for line in self.lines if "event" in line}.values())

    def check(self):
        """Nothing came unreadable or in the open, and nothing in two transactions."""
        transactions = {}
        for line in self.lines:
            assert "unreadable" not in line and "unencrypted" not in line, line
            if "event" in line:
                transactions.setdefault(line["event"], set()).add(line["transaction"])
        doubled = {event: ids for event, ids in transactions.items() if len(ids) > 1}
        assert not doubled, f"in more than one transaction: {doubled}"


class Alice:
    """A client that syncs all the time."""

    def __init__(self, directory):
        config = AsyncClientConfig(
            max_timeouts=None,
            backoff_factor=0.1,
            max_timeout_retry_wait_time=1,
            encryption_enabled=True,
            store_sync_tokens=False,
        )
        self.client = AsyncClient(
            os.environ["HOMESERVER_URL"], NAME, store_path=directory, config=config
        )
        self.messages = []
        self.news = asyncio.Condition()
        self.client.add_event_callback(self._message, RoomMessageText)
        self.client.add_event_callback(self._unreadable, MegolmEvent)

    async def register(self):
        response = await self.client.register(NAME, "a good password")
        assert response.access_token, response
        assert response.user_id == ALICE, response
        self.task = asyncio.create_task(self._sync())

    async def _sync(self):
        while True:
            response = await self.client.sync(timeout=10_000)
            if not isinstance(response, SyncResponse):
                print(f"alice: {response}", flush=True)
                await asyncio.sleep(1)
                continue
            if self.client.should_upload_keys:
                await self.client.keys_upload()
            if self.client.should_query_keys:
                await self.client.keys_query()
            async with self.news:
                self.news.notify_all()

    async def _message(self, room, event):
        assert event.decrypted, event
        self.messages.append((event.sender, event.body))

    async def _unreadable(self, room, event):
        raise AssertionError(f"alice can't read {event}")

    async def until(self, what, predicate):
        async with self.news:
            while not predicate(self):
                if self.task.done():
                    self.task.result()
                await self.news.wait()
        print(f"alice: {what}", flush=True)

    async def say(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        response = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        return response.event_id


async def converse(directory):
    network, alice = OtherNetwork(directory), Alice(directory)
    await network.start_bridge()
    await network.until("the bridge is there", lambda self: any("ready" in l for l in self.lines))
    await alice.register()

    # The room is made when somebody asks for it.
    room_id = (await alice.client.join(ALIAS)).room_id
    await alice.until(
        "sees an encrypted room with the ghost in it",
        lambda self: room_id in self.client.rooms
        and self.client.rooms[room_id].encrypted
        and BOB in self.client.rooms[room_id].users,
    )
    await network.until(
        "knows that alice came", lambda self: any(l.get("joined") == ALICE for l in self.lines)
    )
    spoken, expected = [], []

    async def exchange(number):
        """One message each way, and one of alice's own from the other network."""
        body = f"To the other side, {number}"
        await alice.say(room_id, body)
        spoken.append(body)
        expected.append((ALICE, body))
        await network.until("hears alice", lambda self: self.heard() == spoken)
        network.say("bob", f"From the other side, {number}")
        expected.append((BOB, f"From the other side, {number}"))
        await alice.until("hears bob", lambda self: expected[-1] in self.messages)
        network.say(NAME, f"From my other device, {number}")
        expected.append((ALICE, f"From my other device, {number}"))
        await alice.until("hears herself", lambda self: expected[-1] in self.messages)

    await exchange(1)
    await alice.client.room_typing(room_id, True, 30_000)
    await network.until("sees typing", lambda self: any(ALICE in l.get("typing", []) for l in self.lines))
    counted = lambda self: any("key_counts" in line for line in self.lines)  # noqa: E731
    await network.until("knows how many keys are left", counted)

    # The bridge dies among messages.
    for number in range(8):
        spoken.append(f"among others {number}")
        expected.append((ALICE, spoken[-1]))
        await alice.say(room_id, spoken[-1])
        if number == 4:
            await network.kill_bridge()
    await network.start_bridge()
    await network.until("has heard all of them", lambda self: self.heard() == spoken)
    await exchange(2)

    # Then both: the bridge first, and it comes back first.
    await network.kill_bridge()
    for number in range(3):
        spoken.append(f"nobody there {number}")
        expected.append((ALICE, spoken[-1]))
        await alice.say(room_id, spoken[-1])
    await ask("kill")
    await network.start_bridge()
    for number in range(3):
        network.say("bob", f"into the dark {number}")
    await asyncio.sleep(0.5)
    await ask("start")
    expected.extend((BOB, f"into the dark {number}") for number in range(3))
    await network.until("has heard what waited", lambda self: self.heard() == spoken)
    await alice.until("hears what waited", lambda self: set(expected) <= set(self.messages))

    # And the homeserver's memory of devices, keys and one-time keys is whole.
    await exchange(3)
    assert alice.messages == expected, f"{alice.messages}\nexpected {expected}"
    await network.until("knows that all of it was sent", lambda self: not self.unacknowledged)
    network.check()
    alice.task.cancel()
    await alice.client.close()
    await network.kill_bridge()


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(asyncio.wait_for(converse(directory), LIMIT_SECONDS))
print("conversation complete")
