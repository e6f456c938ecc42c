// Two users of matrix-js-sdk talk through the homeserver at HOMESERVER_URL, which is killed
// meanwhile.
//
// The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
// request and wait until it is answered on standard input.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline/promises";
import { pathToFileURL } from "node:url";

const modules = process.env.INTEROP_NODE_MODULES;
const sdk = await import(pathToFileURL(`${modules}/matrix-js-sdk/lib/index.js`));
const { ClientEvent, RoomEvent, RoomMemberEvent, SyncState } = sdk;

const baseUrl = process.env.HOMESERVER_URL;
const LIMIT_MS = 120_000;
const nothing = () => {};
const quiet = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
quiet.getChild = () => quiet;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
    console.log(`please ${what}`);
    assert.equal((await answers.next()).value, `done ${what}`);
}

/** A client that syncs all the time and remembers what it saw. */
class Person {
    messages = [];
    receipts = [];
    typing = new Set();
    #waiting = [];

    static async register(name) {
        const anonymous = sdk.createClient({ baseUrl, logger: quiet });
        const username = `${name}-${randomBytes(4).toString("hex")}`;
        const request = { username, password: "a good password" };
        // The first answer is a challenge; its session goes into the second request.
        const challenge = await anonymous.registerRequest(request).catch((error) => error);
        assert.equal(challenge.httpStatus, 401);
        request.auth = { type: "m.login.dummy", session: challenge.data.session };
        const answer = await anonymous.registerRequest(request);
        const person = new Person();
        person.name = username;
        person.userId = answer.user_id;
        person.client = sdk.createClient({
            baseUrl,
            logger: quiet,
            userId: answer.user_id,
            deviceId: answer.device_id,
            accessToken: answer.access_token,
        });
        await person.#start();
        return person;
    }

    async #start() {
        const news = () => this.#check();
        this.client.on(RoomEvent.Timeline, (event, _room, toStartOfTimeline) => {
            // One's own message is shown before it is sent; only what came from the server counts.
            if (event.getType() === "m.room.message" && !event.isSending() && !toStartOfTimeline) {
                this.#saw(event);
            }
        });
        // Echoes of one's own messages replace what was shown before.
        this.client.on(RoomEvent.LocalEchoUpdated, (event) => {
            if (event.getType() === "m.room.message" && event.status === null) this.#saw(event);
        });
        this.client.on(RoomEvent.Receipt, (event) => {
            for (const [eventId, kinds] of Object.entries(event.getContent())) {
                for (const userId of Object.keys(kinds["m.read"] ?? {})) {
                    this.receipts.push(`${userId} ${eventId}`);
                }
            }
            news();
        });
        this.client.on(RoomMemberEvent.Typing, (_event, member) => {
            if (member.typing) this.typing.add(member.userId);
            else this.typing.delete(member.userId);
            news();
        });
        this.client.on(ClientEvent.Room, news);
        this.client.on(RoomEvent.MyMembership, news);
        this.client.on(RoomMemberEvent.Membership, news);
        this.client.on(ClientEvent.Sync, (state) => {
            this.state = state;
            news();
        });
        await this.client.startClient({ initialSyncLimit: 20, pollTimeout: 10_000 });
        await this.until("is in sync", () => this.state === SyncState.Prepared || this.state === SyncState.Syncing);
    }

    #saw(event) {
        this.messages.push(`${event.getSender()} ${event.getContent().body} ${event.getId()}`);
        this.#check();
    }

    #check() {
        this.#waiting = this.#waiting.filter(({ predicate, resolve }) => {
            if (!predicate()) return true;
            resolve();
            return false;
        });
    }

    async until(what, predicate) {
        if (!predicate()) await new Promise((resolve) => this.#waiting.push({ predicate, resolve }));
        console.log(`${this.name}: ${what}`);
    }

    async say(roomId, body) {
        const { event_id: eventId } = await this.client.sendTextMessage(roomId, body);
        return { eventId, line: `${this.userId} ${body} ${eventId}` };
    }
}

async function converse() {
    const alice = await Person.register("alice");
    const bob = await Person.register("bob");

    const { room_id: roomId } = await alice.client.createRoom({ name: "Kitchen", invite: [bob.userId] });
    await bob.until("sees the invite", () => bob.client.getRoom(roomId)?.getMyMembership() === "invite");
    await bob.client.joinRoom(roomId);
    await alice.until(
        "sees bob in the room",
        () => alice.client.getRoom(roomId)?.getMember(bob.userId)?.membership === "join",
    );
    await bob.until("is in the room", () => bob.client.getRoom(roomId)?.getMyMembership() === "join");

    const expected = [];
    /** `first` types and speaks, `second` reads it. */
    async function exchange(first, second, body) {
        await first.client.sendTyping(roomId, true, 30_000);
        await second.until("sees typing", () => second.typing.has(first.userId));
        const { eventId, line } = await first.say(roomId, body);
        expected.push(line);
        await first.client.sendTyping(roomId, false, 0);
        await second.until("sees the message", () => second.messages.includes(line));
        await second.until("sees the end of typing", () => !second.typing.has(first.userId));
        const event = second.client.getRoom(roomId).findEventById(eventId);
        await second.client.sendReadReceipt(event);
        await first.until("sees the receipt", () => first.receipts.includes(`${second.userId} ${eventId}`));
    }

    await exchange(alice, bob, "Hello, Bob!");
    await exchange(bob, alice, "Hello, Alice! 🥣");

    for (let number = 0; number < 3; number++) {
        expected.push((await alice.say(roomId, `before ${number}`)).line);
    }
    await ask("kill");
    await ask("start");
    // The clients come back by themselves, from where they were.
    await exchange(alice, bob, "Are you still there?");
    await exchange(bob, alice, "Still here.");

    for (const person of [alice, bob]) {
        await person.until("has seen everything", () => person.messages.length >= expected.length);
        assert.deepEqual(person.messages, expected);
        person.client.stopClient();
    }
}

const limit = setTimeout(() => {
    console.log(`nothing more happened within ${LIMIT_MS} ms`);
    process.exit(1);
}, LIMIT_MS);
await converse();
clearTimeout(limit);
console.log("conversation complete");
process.exit(0);
