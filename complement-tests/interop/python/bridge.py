"""A small bridge, made with mautrix: what a line of JSON on standard input or output is on one side
is an encrypted message of a ghost or a puppet on the other.

It is told by the environment where the homeserver is (HOMESERVER_URL), where its own registration
file and the one for puppets are, both as JSON (REGISTRATION, PUPPETS), and where it may keep things
(BRIDGE_DIRECTORY). All that it knows is there, so that it can be killed and started again.

A line on standard input, {"id", "from", "body"}, is acknowledged by {"sent": id} once it is in the
room. The other network sends it again until then; the ID makes it the same message.
"""

import asyncio
import contextvars
import json
import os
import sys
from pathlib import Path

from mautrix.appservice import AppService
from mautrix.appservice.state_store.asyncpg import PgASStateStore
from mautrix.client import Client
from mautrix.crypto import OlmMachine, PgCryptoStore
from mautrix.errors import EncryptionError, MatrixConnectionError, MatrixRequestError
from mautrix.types import (
    EncryptionAlgorithm,
    EventType,
    Membership,
    MessageType,
    RoomCreatePreset,
    RoomEncryptionStateEventContent,
    TextMessageEventContent,
    TrustState,
)
from mautrix.util.async_db import Database

HOMESERVER = os.environ["HOMESERVER_URL"]
DIRECTORY = Path(os.environ["BRIDGE_DIRECTORY"])
REGISTRATION = json.loads(Path(os.environ["REGISTRATION"]).read_text())
PUPPETS = json.loads(Path(os.environ["PUPPETS"]).read_text())
DOMAIN = "complement.test"
ALIAS = f"#_net_lobby:{DOMAIN}"
# Marks what a puppet says, so that it does not come back.
SOURCE = "org.example.net"

transaction = contextvars.ContextVar("transaction", default=None)


def tell(**line):
    print(json.dumps(line), flush=True)


class Appservice(AppService):
    """Knows in which transaction an event came."""

    async def handle_transaction(self, txn_id, **content):
        transaction.set(txn_id)
        return await super().handle_transaction(txn_id, **content)


async def until_answered(what):
    """Tries again while the homeserver is away."""
    while True:
        try:
            return await what()
        except (MatrixRequestError, MatrixConnectionError, OSError) as error:
            if getattr(error, "http_status", 500) < 500:
                raise
            await asyncio.sleep(0.2)


class Bridge:
    def __init__(self):
        self.portal_file = DIRECTORY / "portal"
        self.db = Database.create(
            f"sqlite:///{DIRECTORY}/bridge.db", upgrade_table=PgCryptoStore.upgrade_table
        )
        self.az = Appservice(
            server=HOMESERVER,
            domain=DOMAIN,
            as_token=REGISTRATION["as_token"],
            hs_token=REGISTRATION["hs_token"],
            bot_localpart=REGISTRATION["sender_localpart"],
            id=REGISTRATION["id"],
            state_store=PgASStateStore(self.db),
            ephemeral_events=True,
            encryption_events=True,
        )
        # A transaction is acknowledged once the other network has what was in it.
        self.az.synchronous_handlers = True
        self.az.query_alias = self.make_portal
        self.az.matrix_event_handler(self.on_event)

    @property
    def portal(self):
        return self.portal_file.read_text() if self.portal_file.exists() else None

    async def start(self):
        await self.db.start()
        await PgASStateStore.upgrade_table.upgrade(self.db)
        self.store = PgCryptoStore("", "interop", self.db)
        await self.store.open()
        self.client = Client(
            base_url=HOMESERVER,
            mxid=self.az.bot_mxid,
            token=REGISTRATION["as_token"],
            sync_store=self.store,
            state_store=self.az.state_store,
        )
        self.crypto = OlmMachine(self.client, self.store, self.az.state_store)
        self.crypto.share_keys_min_trust = TrustState.UNVERIFIED
        self.crypto.send_keys_min_trust = TrustState.UNVERIFIED
        self.az.otk_handler = self.on_key_counts
        self.az.device_list_handler = self.crypto.handle_as_device_lists
        self.az.to_device_handler = self.crypto.handle_as_to_device_event
        # Its keys first: what comes may need them.
        await self.crypto.load()
        self.client.api.as_user_id = self.az.bot_mxid
        known = await self.store.get_device_id()
        if known:
            self.client.api.as_device_id = self.client.device_id = known
        # With a homeserver that is away: it takes what the homeserver sends as soon as it is back.
        await self.az.start("127.0.0.1", int(os.environ["BRIDGE_PORT"]))
        await until_answered(self.az.intent.versions)
        await self.az.intent.ensure_registered()
        await until_answered(lambda: self.az.ping_self("interop"))
        await until_answered(
            lambda: self.client.create_device_msc4190(known or "", "A small bridge")
        )
        if not known:
            await self.store.put_device_id(self.client.device_id)
        if not self.crypto.account.shared:
            await until_answered(lambda: self.crypto.share_keys(0))
        tell(ready=self.client.device_id)

    async def make_portal(self, alias):
        """Somebody asks for the alias: the room is made."""
        if alias != ALIAS:
            return None
        encryption = RoomEncryptionStateEventContent(algorithm=EncryptionAlgorithm.MEGOLM_V1)
        room = await self.az.intent.create_room(
            alias_localpart=ALIAS[1:].split(":")[0],
            preset=RoomCreatePreset.PUBLIC,
            name="The lobby",
            initial_state=[
                {"type": "m.room.encryption", "state_key": "", "content": encryption.serialize()}
            ],
        )
        await self.az.state_store.set_encryption_info(room, encryption)
        self.portal_file.write_text(room)
        await self.ghost("bob").ensure_joined(room)
        return {"room": room}

    def ghost(self, name):
        return self.az.intent.user(f"@_net_{name}:{DOMAIN}")

    def puppet(self, name):
        """A user of the homeserver who lets the bridge speak for them."""
        return self.az.intent.user(
            f"@{name}:{DOMAIN}", token=PUPPETS["as_token"], as_token=True
        )

    async def on_key_counts(self, counts):
        tell(key_counts={user: list(devices) for user, devices in counts.items()})
        await self.crypto.handle_as_otk_counts(counts)

    async def on_event(self, event):
        if event.type == EventType.TYPING:
            tell(typing=event.content.user_ids)
            return
        if event.type == EventType.RECEIPT:
            tell(receipt=[str(read) for read in event.content])
            return
        if event.type == EventType.PRESENCE or event.room_id != self.portal:
            return
        if event.type == EventType.ROOM_MEMBER:
            if not event.state_key.startswith("@_net_"):
                await self.crypto.handle_member_event(event)
                if event.content.membership == Membership.JOIN:
                    tell(joined=event.state_key)
            return
        if event.sender.startswith("@_net_"):
            return
        if event.type == EventType.ROOM_ENCRYPTED:
            try:
                decrypted = await self.crypto.decrypt_megolm_event(event)
            except EncryptionError as error:
                tell(unreadable=event.event_id, why=repr(error), transaction=transaction.get())
                return
            if decrypted.content.get(SOURCE):
                return
            tell(
                event=event.event_id,
                sender=event.sender,
                body=decrypted.content.body,
                transaction=transaction.get(),
            )
        elif event.type == EventType.ROOM_MESSAGE:
            tell(unencrypted=event.event_id)

    async def encrypted(self, room, content):
        kind = EventType.ROOM_MESSAGE
        try:
            return await self.crypto.encrypt_megolm_event(room, kind, content)
        except EncryptionError:
            members = await self.az.state_store.get_members_filtered(
                room, "@_net_", f":{DOMAIN}", self.az.bot_mxid
            )
            await self.crypto.share_group_session(room, members)
            return await self.crypto.encrypt_megolm_event(room, kind, content)

    async def say(self, line):
        """Brings a message of the other network into the room."""
        room = self.portal
        # Alice has an account here too.
        is_puppet = line["from"] == os.environ["PUPPET"]
        intent = self.puppet(line["from"]) if is_puppet else self.ghost(line["from"])
        if not is_puppet:
            await intent.ensure_joined(room)
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=line["body"])
        if is_puppet:
            content[SOURCE] = True
        encrypted = await self.encrypted(room, content)
        event = await intent.send_message_event(
            room, EventType.ROOM_ENCRYPTED, encrypted, txn_id=f"net-{line['id']}"
        )
        tell(sent=line["id"], event_id=event)

    async def run(self):
        await self.start()
        while line := await asyncio.to_thread(sys.stdin.readline):
            line = json.loads(line)
            await until_answered(lambda: self.say(line))
        # The process is killed, or its standard input ends.
        os._exit(0)


async def main():
    await Bridge().run()


asyncio.run(main())
