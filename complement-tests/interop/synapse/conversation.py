"""Users of two homeservers, at MYELIN_URL and SYNAPSE_URL, meet in rooms of either of them.

The test that starts this script controls the servers: `ask("stop synapse")` and the like print a
request and wait until it is answered on standard input. Both show certificates of the authority in
CA_FILE.
"""

import json
import os
import secrets
import ssl
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

LIMIT_SECONDS = 30
TRUST = ssl.create_default_context(cafile=os.environ["CA_FILE"])
# 7 brought knocking, 8 restricted rooms, 11 moved `redacts`, 12 took servers out of room IDs.
ROOM_VERSIONS = ["6", "9", "10", "11", "12"]


def ask(what):
    print(f"please {what}", flush=True)
    answer = sys.stdin.readline()
    assert answer.strip() == f"done {what}", answer


def quoted(*parts):
    return "".join("/" + urllib.parse.quote(part, safe="") for part in parts)


class Person:
    """Somebody on one of the servers, who remembers what syncing showed."""

    def __init__(self, server, name):
        self.url = os.environ[f"{server.upper()}_URL"]
        self.server_name = urllib.parse.urlsplit(self.url).netloc
        self.token = None
        self.since = None
        self.invites = set()
        self.events = {}
        self.memberships = {}
        self.typing = {}
        self.receipts = set()
        self.presence = {}
        account = self.post(
            quoted("register"),
            username=f"{name}-{secrets.token_hex(4)}",
            password="a good password",
            auth={"type": "m.login.dummy"},
        )
        self.user_id, self.token = account["user_id"], account["access_token"]

    def __str__(self):
        return self.user_id

    def request(self, method, path, body=None, **query):
        data = None if body is None else json.dumps(body).encode()
        url = f"/_matrix/client/v3{path}?{urllib.parse.urlencode(query)}"
        return json.loads(self.fetch(method, url, data, "application/json"))

    def fetch(self, method, path, data=None, content_type=None):
        request = urllib.request.Request(self.url + path, data, method=method)
        if content_type:
            request.add_header("Content-Type", content_type)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, context=TRUST, timeout=LIMIT_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{self}: {method} {path}: {error.code} {error.read()}") from None

    def get(self, path, **query):
        return self.request("GET", path, **query)

    def put(self, path, **body):
        return self.request("PUT", path, body)

    def post(self, path, **body):
        return self.request("POST", path, body)

    def sync(self):
        query = {"timeout": 1000, "filter": json.dumps({"room": {"timeline": {"limit": 100}}})}
        if self.since:
            query["since"] = self.since
        answer = self.get(quoted("sync"), **query)
        self.since = answer["next_batch"]
        rooms = answer.get("rooms", {})
        self.invites |= rooms.get("invite", {}).keys()
        for event in answer.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        for room_id, room in rooms.get("join", {}).items():
            for event in room.get("ephemeral", {}).get("events", []):
                self.saw_ephemeral(room_id, event)
        for room_id, room in [*rooms.get("join", {}).items(), *rooms.get("leave", {}).items()]:
            for event in [*room["state"]["events"], *room["timeline"]["events"]]:
                self.events.setdefault(room_id, {})[event["event_id"]] = event
                if event["type"] == "m.room.member":
                    membership = event["content"]["membership"]
                    self.memberships[room_id, event["state_key"]] = membership

    def saw_ephemeral(self, room_id, event):
        content = event["content"]
        if event["type"] == "m.typing":
            self.typing[room_id] = content["user_ids"]
        elif event["type"] == "m.receipt":
            for event_id, kinds in content.items():
                for user_id, receipt in kinds.get("m.read", {}).items():
                    self.receipts.add((user_id, event_id, receipt.get("thread_id")))

    def until(self, what, is_so):
        end = time.monotonic() + LIMIT_SECONDS
        while not is_so():
            assert time.monotonic() < end, f"{self} never {what}"
            self.sync()

    def sees(self, room_id, user, membership):
        self.until(
            f"saw that {user} is at {membership!r}",
            lambda: self.memberships.get((room_id, user.user_id)) == membership,
        )

    def hears(self, room_id, event_id):
        self.until(f"heard {event_id}", lambda: event_id in self.events.get(room_id, {}))
        return self.events[room_id][event_id]

    def is_invited(self, room_id):
        self.until(f"was invited to {room_id}", lambda: room_id in self.invites)

    def create(self, version, preset, **more):
        room = self.post(quoted("createRoom"), room_version=version, preset=preset, **more)
        return room["room_id"]

    def join(self, room, via):
        path = quoted("join", room)
        return self.request("POST", path, {}, via=via.server_name)["room_id"]

    def send(self, room_id, event_type, **content):
        path = quoted("rooms", room_id, "send", event_type, secrets.token_hex(8))
        return self.put(path, **content)["event_id"]

    def say(self, room_id, body):
        return self.send(room_id, "m.room.message", msgtype="m.text", body=body)

    def moderate(self, room_id, action, user, **more):
        self.post(quoted("rooms", room_id, action), user_id=user.user_id, **more)


def talk(room_id, first, second):
    """Each says something that the other one hears."""
    for speaker, listener in [(first, second), (second, first)]:
        body = f"{speaker} speaks"
        heard = listener.hears(room_id, speaker.say(room_id, body))
        assert (heard["sender"], heard["content"]["body"]) == (speaker.user_id, body), heard


def public_room(version, host, guest):
    """Found by its alias; there is talk, a reaction, a redaction; the guest leaves."""
    alias = f"kitchen-{secrets.token_hex(4)}"
    room_id = host.create(version, "public_chat", room_alias_name=alias)
    assert guest.join(f"#{alias}:{host.server_name}", host) == room_id
    guest.sees(room_id, host, "join")
    host.sees(room_id, guest, "join")
    talk(room_id, host, guest)

    for author, reader in [(host, guest), (guest, host)]:
        said = author.say(room_id, "soup?")
        reader.hears(room_id, said)
        relation = {"rel_type": "m.annotation", "event_id": said, "key": "🥣"}
        reaction = reader.send(room_id, "m.reaction", **{"m.relates_to": relation})
        assert author.hears(room_id, reaction)["content"]["m.relates_to"] == relation
        path = quoted("rooms", room_id, "redact", said, secrets.token_hex(8))
        redaction = author.put(path, reason="eaten")["event_id"]
        assert reader.hears(room_id, redaction)["sender"] == author.user_id
        redacted = reader.get(quoted("rooms", room_id, "event", said))
        assert redacted["content"] == {}, redacted

    guest.post(quoted("rooms", room_id, "leave"))
    host.sees(room_id, guest, "leave")


def invitation(version, host, guest):
    """To a direct chat: accepted."""
    room_id = host.create(
        version, "trusted_private_chat", is_direct=True, invite=[guest.user_id]
    )
    guest.is_invited(room_id)
    assert guest.join(room_id, host) == room_id
    host.sees(room_id, guest, "join")
    guest.sees(room_id, host, "join")
    talk(room_id, host, guest)


def refusal(version, host, guest):
    """An invitation that is refused."""
    room_id = host.create(version, "private_chat")
    host.moderate(room_id, "invite", guest)
    guest.is_invited(room_id)
    guest.post(quoted("rooms", room_id, "leave"))
    host.sees(room_id, guest, "leave")


def expulsion(version, host, guest):
    """A guest is kicked, comes again, and is banned."""
    room_id = host.create(version, "public_chat")
    guest.join(room_id, host)
    host.moderate(room_id, "kick", guest, reason="noise")
    guest.sees(room_id, guest, "leave")
    guest.join(room_id, host)
    guest.sees(room_id, guest, "join")
    talk(room_id, host, guest)
    host.moderate(room_id, "ban", guest, reason="more noise")
    guest.sees(room_id, guest, "ban")
    try:
        guest.join(room_id, host)
    except AssertionError as error:
        assert ": 403 " in str(error), error
    else:
        raise AssertionError("a banned user could join")


def knock(version, host, guest):
    """A knock that is heard and answered with an invitation."""
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room_id = host.create(version, "private_chat", initial_state=[rule])
    guest.request("POST", quoted("knock", room_id), {}, via=host.server_name)
    host.sees(room_id, guest, "knock")
    host.moderate(room_id, "invite", guest)
    guest.is_invited(room_id)
    guest.join(room_id, host)
    talk(room_id, host, guest)


def restricted_room(version, host, guest):
    """Open to who is in another room."""
    lobby = host.create(version, "public_chat")
    allow = [{"type": "m.room_membership", "room_id": lobby}]
    content = {"join_rule": "restricted", "allow": allow}
    rule = {"type": "m.room.join_rules", "state_key": "", "content": content}
    room_id = host.create(version, "private_chat", initial_state=[rule])
    guest.join(lobby, host)
    host.sees(lobby, guest, "join")
    guest.join(room_id, host)
    host.sees(room_id, guest, "join")
    talk(room_id, host, guest)


def signs_of_life(room_id, host, guest):
    """Typing, receipts with and without thread, presence."""
    for actor, witness in [(host, guest), (guest, host)]:
        typing = quoted("rooms", room_id, "typing", actor.user_id)
        actor.put(typing, typing=True, timeout=30_000)
        witness.until("saw typing", lambda: actor.user_id in witness.typing.get(room_id, []))
        actor.put(typing, typing=False)
        witness.until(
            "saw the end of typing", lambda: actor.user_id not in witness.typing.get(room_id, [])
        )
        said = witness.say(room_id, "have you read this?")
        actor.hears(room_id, said)
        receipt = quoted("rooms", room_id, "receipt", "m.read", said)
        for thread in [None, "main"]:
            actor.post(receipt, **({"thread_id": thread} if thread else {}))
            witness.until(
                f"saw the receipt in {thread}",
                lambda: (actor.user_id, said, thread) in witness.receipts,
            )
        status = quoted("presence", actor.user_id, "status")
        actor.put(status, presence="online", status_msg="cooking")
        witness.until(
            "saw who is there",
            lambda: witness.presence.get(actor.user_id, {}).get("status_msg") == "cooking",
        )


def edits_and_threads(room_id, host, guest):
    for author, reader in [(host, guest), (guest, host)]:
        said = author.say(room_id, "carrots")
        new = {"msgtype": "m.text", "body": "soup"}
        edit = author.send(
            room_id,
            "m.room.message",
            msgtype="m.text",
            body="* soup",
            **{"m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": said}},
        )
        answer = author.send(
            room_id,
            "m.room.message",
            msgtype="m.text",
            body="which one?",
            **{"m.relates_to": {"rel_type": "m.thread", "event_id": said}},
        )
        reader.hears(room_id, edit)
        reader.hears(room_id, answer)
        relations = reader.get(quoted("rooms", room_id, "event", said))["unsigned"]["m.relations"]
        assert relations["m.thread"]["latest_event"]["event_id"] == answer, relations
        assert relations["m.replace"]["event_id"] == edit, relations


def picture():
    """A PNG of 64 times 64 pixels, one colour."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = (b"\0" + b"\xc0\x40\x20" * 64) * 64
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def media(host, guest):
    """What one uploads the other one sees, large and small."""
    data = picture()
    uri = json.loads(host.fetch("POST", "/_matrix/media/v3/upload", data, "image/png"))
    place = quoted(*uri["content_uri"].removeprefix("mxc://").split("/"))
    below = "/_matrix/client/v1/media"
    assert guest.fetch("GET", f"{below}/download{place}") == data
    small = guest.fetch("GET", f"{below}/thumbnail{place}?width=32&height=32&method=scale")
    assert 0 < len(small) and small[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"RIFF"), small[:16]


def before_the_join(host, guest):
    """Who comes later reads what was said before."""
    room_id = host.create("11", "public_chat")
    said = [host.say(room_id, f"before {number}") for number in range(30)]
    guest.join(room_id, host)
    missing, start = set(said), None
    end = time.monotonic() + LIMIT_SECONDS
    while missing:
        assert time.monotonic() < end, f"{guest} never read {missing}"
        query = {"dir": "b", "limit": 20, **({"from": start} if start else {})}
        page = guest.get(quoted("rooms", room_id, "messages"), **query)
        missing -= {event["event_id"] for event in page["chunk"]}
        # At what one server takes for the beginning the other may not have answered yet.
        start = page.get("end")


def directory_and_space(host, guest):
    """The host's server lists a room, and tells what is in a space."""
    name = f"Kitchen {secrets.token_hex(4)}"
    room_id = host.create("11", "public_chat", name=name)
    host.put(quoted("directory", "list", "room", room_id), visibility="public")
    found = guest.request(
        "POST",
        quoted("publicRooms"),
        {"filter": {"generic_search_term": name}},
        server=host.server_name,
    )
    assert [room["room_id"] for room in found["chunk"]] == [room_id], found
    space = host.create("11", "public_chat", creation_content={"type": "m.space"})
    child = quoted("rooms", space, "state", "m.space.child", room_id)
    host.put(child, via=[host.server_name])
    guest.join(space, host)
    path = "/_matrix/client/v1" + quoted("rooms", space, "hierarchy")
    seen = [room["room_id"] for room in json.loads(guest.fetch("GET", path))["rooms"]]
    assert seen == [space, room_id], seen


def upgrade(host, guest):
    """The room goes on in a new one, which the guest enters."""
    room_id = host.create("10", "public_chat", name="Old kitchen")
    guest.join(room_id, host)
    host.sees(room_id, guest, "join")
    new = host.post(quoted("rooms", room_id, "upgrade"), new_version="11")["replacement_room"]

    def is_closed():
        events = guest.events.get(room_id, {}).values()
        return any(
            event["type"] == "m.room.tombstone" and event["content"]["replacement_room"] == new
            for event in events
        )

    guest.until("saw where the room goes on", is_closed)
    guest.join(new, host)
    talk(new, host, guest)


def state_of(person, room_id):
    events = person.get(quoted("rooms", room_id, "state"))
    return {(event["type"], event["state_key"]): event["event_id"] for event in events}


def conflict(alice, bob):
    """Each server is away while the other one changes the same state; then both agree."""
    room_id = alice.create("11", "public_chat", name="Kitchen")
    bob.join(room_id, alice)
    alice.sees(room_id, bob, "join")
    levels = alice.get(quoted("rooms", room_id, "state", "m.room.power_levels", ""))
    levels["users"][bob.user_id] = 100
    power = quoted("rooms", room_id, "state", "m.room.power_levels", "")
    alice.put(power, **levels)
    bob.until(
        "may change the room",
        lambda: bob.get(power)["users"].get(bob.user_id) == 100,
    )
    talk(room_id, alice, bob)
    name = quoted("rooms", room_id, "state", "m.room.name", "")
    ask("stop synapse again")
    bob.put(power, **{**levels, "events_default": 10})
    bob.put(name, name="Bob's kitchen")
    alone = bob.say(room_id, "said alone on one side")
    ask("stop myelin again")
    ask("start synapse again")
    alice.put(power, **{**levels, "state_default": 60})
    alice.put(name, name="Alice's kitchen")
    also_alone = alice.say(room_id, "said alone on the other side")
    ask("start myelin again")
    # One event from each heals.
    for person in [alice, bob]:
        person.say(room_id, "together again")
    alice.hears(room_id, alone)
    bob.hears(room_id, also_alone)
    talk(room_id, alice, bob)
    end = time.monotonic() + LIMIT_SECONDS
    while (ours := state_of(bob, room_id)) != (theirs := state_of(alice, room_id)):
        assert time.monotonic() < end, (ours, theirs)
        time.sleep(0.2)


def once(host, guest):
    """What does not depend on the room version."""
    room_id = host.create("11", "public_chat")
    guest.join(room_id, host)
    host.sees(room_id, guest, "join")
    guest.sees(room_id, host, "join")
    yield "signs_of_life", lambda: signs_of_life(room_id, host, guest)
    yield "edits_and_threads", lambda: edits_and_threads(room_id, host, guest)
    for scene in [media, before_the_join, directory_and_space, upgrade]:
        yield scene.__name__, lambda: scene(host, guest)


def timed(where, scene):
    begin = time.monotonic()
    print(where, flush=True)
    scene()
    print(f"{where}: {time.monotonic() - begin:.1f} s", flush=True)


def absence(server, host, guest):
    """What was said while the guest's server was away reaches it when it is back."""
    room_id = host.create("12", "public_chat")
    guest.join(room_id, host)
    host.sees(room_id, guest, "join")
    talk(room_id, host, guest)
    ask(f"stop {server}")
    missed = [host.say(room_id, f"said to nobody {number}") for number in range(30)]
    ask(f"start {server}")
    # A sign of life, without which a sender may wait for minutes before it tries again.
    host.hears(room_id, guest.say(room_id, "here again"))
    for event_id in missed:
        guest.hears(room_id, event_id)
    talk(room_id, host, guest)


def converse():
    alice, bob = Person("synapse", "alice"), Person("myelin", "bob")
    for version in ROOM_VERSIONS:
        scenes = [public_room, invitation, refusal, expulsion]
        if int(version) >= 7:
            scenes.append(knock)
        if int(version) >= 8:
            scenes.append(restricted_room)
        for host, guest in [(alice, bob), (bob, alice)]:
            for scene in scenes:
                where = f"version {version}, {scene.__name__}, host {host}"
                timed(where, lambda: scene(version, host, guest))
    for host, guest in [(alice, bob), (bob, alice)]:
        for name, scene in once(host, guest):
            timed(f"{name}, host {host}", scene)
    absence("myelin", alice, bob)
    absence("synapse", bob, alice)
    timed("conflict", lambda: conflict(alice, bob))


converse()
print("conversation complete")
