// Two users of matrix-js-sdk talk in an encrypted room through the homeserver at HOMESERVER_URL, which
// is killed meanwhile; the second one through that at OTHER_HOMESERVER_URL, if there is one, or with
// matrix-nio, if OTHER_CLIENT is a Python that has it. Users of matrix-js-sdk verify each other by
// emoji. Then one of them reads it all on a new device, from the key backup.
//
// The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
// request and wait until it is answered on standard input.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

import { trusts, verifyByEmoji } from "./verification.mjs";

const modules = process.env.INTEROP_NODE_MODULES;
const sdk = await import(pathToFileURL(`${modules}/matrix-js-sdk/lib/index.js`));
const { ClientEvent, MatrixEventEvent, RoomEvent, RoomMemberEvent, SyncState } = sdk;

const homeUrl = process.env.HOMESERVER_URL;
const otherUrl = process.env.OTHER_HOMESERVER_URL ?? homeUrl;
const LIMIT_MS = 170_000;
const PASSWORD = "a good password";
const nothing = () => {};
const quiet = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
quiet.getChild = () => quiet;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
    console.log(`please ${what}`);
    assert.equal((await answers.next()).value, `done ${what}`);
}

/** Somebody who remembers what they could read. */
class Person {
    read = new Map();
    #waiting = [];

    check() {
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
}

/** A client of matrix-nio, in a process of its own. */
class NioPerson extends Person {
    name = "bob with matrix-nio";
    #invites = new Set();
    #joined = new Set();
    #said = [];

    static async register(python) {
        const script = fileURLToPath(new URL("../python/encrypting_person.py", import.meta.url));
        const env = { ...process.env, HOMESERVER_URL: homeUrl };
        const person = new NioPerson();
        person.process = spawn(python, [script], { env, stdio: ["pipe", "pipe", "inherit"] });
        createInterface({ input: person.process.stdout }).on("line", (line) => person.#told(line));
        await person.until("is there", () => person.userId);
        return person;
    }

    #told(line) {
        const told = JSON.parse(line);
        assert(!told.unreadable, `matrix-nio can't read ${told.unreadable}`);
        this.userId ??= told.user_id;
        this.#invites.add(told.invite);
        this.#joined.add(told.joined);
        if (told.said) this.#said.push(told.said);
        if (told.read) this.read.set(told.read, told.body);
        this.check();
    }

    #tell(line) {
        this.process.stdin.write(`${JSON.stringify(line)}\n`);
    }

    async accept(roomId) {
        await this.until("sees the invite", () => this.#invites.has(roomId));
        this.#tell({ do: "join", room: roomId });
        await this.until("is in the room", () => this.#joined.has(roomId));
    }

    async say(roomId, body) {
        const before = this.#said.length;
        this.#tell({ do: "say", room: roomId, body });
        await this.until(`has said "${body}"`, () => this.#said.length > before);
        return this.#said[before];
    }

    stop() {
        this.process.kill();
    }
}

/** A device that syncs all the time. */
class Device extends Person {
    static async register(name, baseUrl) {
        const anonymous = sdk.createClient({ baseUrl, logger: quiet });
        const username = `${name}-${randomBytes(4).toString("hex")}`;
        const request = { username, password: PASSWORD };
        const challenge = await anonymous.registerRequest(request).catch((error) => error);
        assert.equal(challenge.httpStatus, 401);
        request.auth = { type: "m.login.dummy", session: challenge.data.session };
        return await new Device().#start(username, baseUrl, await anonymous.registerRequest(request));
    }

    /** The same user on another device. */
    async again() {
        const { baseUrl } = this;
        const anonymous = sdk.createClient({ baseUrl, logger: quiet });
        const identifier = { type: "m.id.user", user: this.userId };
        const request = { type: "m.login.password", identifier, password: PASSWORD };
        const device = new Device();
        device.recoveryKey = this.recoveryKey;
        return await device.#start(`${this.name} again`, baseUrl, await anonymous.loginRequest(request));
    }

    async #start(name, baseUrl, answer) {
        this.name = name;
        this.baseUrl = baseUrl;
        this.userId = answer.user_id;
        this.client = sdk.createClient({
            baseUrl,
            logger: quiet,
            userId: answer.user_id,
            deviceId: answer.device_id,
            accessToken: answer.access_token,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], this.recoveryKey.privateKey],
            },
        });
        await this.client.initRustCrypto({ useIndexedDB: false });
        const news = () => this.check();
        this.client.on(RoomEvent.Timeline, (event) => this.#saw(event));
        this.client.on(MatrixEventEvent.Decrypted, (event) => this.#saw(event));
        this.client.on(ClientEvent.Room, news);
        this.client.on(RoomEvent.MyMembership, news);
        this.client.on(RoomMemberEvent.Membership, news);
        this.client.on(ClientEvent.Sync, (state) => {
            this.state = state;
            news();
        });
        await this.client.startClient({ initialSyncLimit: 50, pollTimeout: 10_000 });
        await this.until("is in sync", () => this.state === SyncState.Prepared || this.state === SyncState.Syncing);
        return this;
    }

    #saw(event) {
        // A request to verify is readable by all.
        if (event.getContent().msgtype === "m.key.verification.request") return;
        if (event.getType() === "m.room.message" && !event.isSending() && !event.isDecryptionFailure()) {
            assert(event.isEncrypted(), `${event.getId()} was not encrypted`);
            this.read.set(event.getId(), event.getContent().body);
        }
        this.check();
    }

    async accept(roomId) {
        const membership = () => this.client.getRoom(roomId)?.getMyMembership();
        await this.until("sees the invite", () => membership() === "invite");
        await this.client.joinRoom(roomId);
        await this.until("is in the room", () => membership() === "join");
    }

    async say(roomId, body) {
        return (await this.client.sendTextMessage(roomId, body)).event_id;
    }

    stop() {
        this.client.stopClient();
    }
}

async function converse() {
    const alice = await Device.register("alice", homeUrl);
    const { OTHER_CLIENT: python } = process.env;
    const bob = await (python ? NioPerson.register(python) : Device.register("bob", otherUrl));
    const crypto = alice.client.getCrypto();

    // An identity, a place for its secrets, and a backup of the keys to come.
    const newIdentity = {
        authUploadDeviceSigningKeys: async (makeRequest) => void (await makeRequest(null)),
    };
    await crypto.bootstrapCrossSigning(newIdentity);
    const bobsCrypto = bob.client?.getCrypto();
    await bobsCrypto?.bootstrapCrossSigning(newIdentity);
    alice.recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => alice.recoveryKey,
        setupNewKeyBackup: true,
    });
    console.log("alice has an identity and a key backup");

    const encryption = {
        type: "m.room.encryption",
        state_key: "",
        content: { algorithm: "m.megolm.v1.aes-sha2" },
    };
    const { room_id: roomId } = await alice.client.createRoom({
        name: "Kitchen",
        invite: [bob.userId],
        initial_state: [encryption],
    });
    await bob.accept(roomId);
    await alice.until(
        "sees bob in the room",
        () => alice.client.getRoom(roomId)?.getMember(bob.userId)?.membership === "join",
    );

    const said = new Map();
    async function exchange(first, second, body) {
        const eventId = await first.say(roomId, body);
        said.set(eventId, body);
        await second.until(`reads "${body}"`, () => second.read.get(eventId) === body);
    }
    await exchange(alice, bob, "Hello, Bob!");
    await exchange(bob, alice, "Hello, Alice! 🥣");
    if (bobsCrypto) {
        await verifyByEmoji(alice, bob, roomId);
        console.log("alice and bob have verified each other");
    }
    for (let number = 0; number < 3; number++) {
        said.set(await alice.say(roomId, `before ${number}`), `before ${number}`);
    }
    await ask("kill");
    await ask("start");
    // A new session of keys has to go from device to device, past the crash.
    await crypto.forceDiscardSession(roomId);
    await exchange(alice, bob, "Are you still there?");
    await exchange(bob, alice, "Still here.");
    const toBob = [...said].filter(([_, body]) => !body.startsWith("Hello, Alice") && body !== "Still here.");
    await bob.until("has read everything", () => toBob.every(([id, body]) => bob.read.get(id) === body));

    // At least two sessions of Alice and one of Bob.
    const sessions = (await crypto.exportRoomKeys()).length;
    assert(sessions >= 3, `alice has ${sessions} sessions`);
    let count;
    do {
        await sleep(100);
        // Asked directly: the client remembers what it was told once.
        const headers = { Authorization: `Bearer ${alice.client.getAccessToken()}` };
        const answer = await fetch(`${alice.baseUrl}/_matrix/client/v3/room_keys/version`, { headers });
        ({ count } = await answer.json());
    } while (count < sessions);
    console.log(`the backup has ${count} keys`);

    const second = await alice.again();
    const secondCrypto = second.client.getCrypto();
    // The public keys must be there before the private ones are taken from the secret storage.
    assert(await secondCrypto.userHasCrossSigningKeys(alice.userId, true));
    await secondCrypto.bootstrapCrossSigning({});
    await secondCrypto.loadSessionBackupPrivateKeyFromSecretStorage();
    const restored = await secondCrypto.restoreKeyBackup();
    assert.equal(restored.imported, restored.total);
    assert(restored.total >= sessions, `${restored.total} keys were restored`);
    for (const event of second.client.getRoom(roomId).getLiveTimeline().getEvents()) {
        if (event.isEncrypted()) await second.client.decryptEventIfNeeded(event, { isRetry: true });
    }
    await second.until("reads the history", () => [...said].every(([id, body]) => second.read.get(id) === body));

    // Bob sees that Alice vouches for the new device, if his client knows of such things, and writes
    // to it.
    const { deviceId } = second.client;
    let status;
    do {
        await sleep(100);
        status = await bobsCrypto?.getDeviceVerificationStatus(alice.userId, deviceId);
    } while (bobsCrypto && !status?.signedByOwner);
    await exchange(bob, second, "Welcome back.");
    if (bobsCrypto) {
        // He knows who she is, and she knows it of him on a device that never saw an emoji.
        assert(status.crossSigningVerified);
        await trusts(second, bob);
    }

    for (const person of [alice, bob, second]) person.stop();
}

const limit = setTimeout(() => {
    console.log(`nothing more happened within ${LIMIT_MS} ms`);
    process.exit(1);
}, LIMIT_MS);
await converse();
clearTimeout(limit);
console.log("conversation complete");
process.exit(0);
