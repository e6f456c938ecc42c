"""Users of two homeservers, at MYELIN_URL and SYNAPSE_URL, meet in rooms of either of them.

The test that starts this script controls the servers: `ask("stop synapse")` and the like print a
request and wait until it is answered on standard input. Both show certificates of the authority in
CA_FILE.
"""

import json
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

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
        url = f"{self.url}/_matrix/client/v3{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, context=TRUST, timeout=LIMIT_SECONDS) as answer:
                return json.load(answer)
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
        for room_id, room in [*rooms.get("join", {}).items(), *rooms.get("leave", {}).items()]:
            for event in [*room["state"]["events"], *room["timeline"]["events"]]:
                self.events.setdefault(room_id, {})[event["event_id"]] = event
                if event["type"] == "m.room.member":
                    membership = event["content"]["membership"]
                    self.memberships[room_id, event["state_key"]] = membership

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
                begin = time.monotonic()
                where = f"version {version}, {scene.__name__}, host {host}"
                print(f"{where}", flush=True)
                scene(version, host, guest)
                print(f"{where}: {time.monotonic() - begin:.1f} s", flush=True)
    absence("myelin", alice, bob)
    absence("synapse", bob, alice)


converse()
print("conversation complete")
