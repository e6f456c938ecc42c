// Somebody with matrix-js-sdk talks with another network over the bridge in bridge.mjs
// (matrix-appservice-bridge). Bridge and homeserver are killed in the middle; nothing may be lost or
// doubled.
//
// The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
// request and wait until it is answered on standard input.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

const modules = process.env.INTEROP_NODE_MODULES;
const sdk = await import(pathToFileURL(`${modules}/matrix-js-sdk/lib/index.js`));
const { ClientEvent, RoomEvent, RoomMemberEvent } = sdk;

const baseUrl = process.env.HOMESERVER_URL;
const LIMIT_MS = 120_000;
const ALIAS = "#_net_lobby:complement.test";
const BOB = "@_net_bob:complement.test";
const ALICE = "@alice:complement.test";
const nothing = () => {};
const quiet = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
quiet.getChild = () => quiet;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
    console.log(`please ${what}`);
    assert.equal((await answers.next()).value, `done ${what}`);
}

/** Waits for what others tell. */
class Waiting {
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
        console.log(what);
    }
}

/** What is on the other side of the bridge. It sends again what was not acknowledged. */
class OtherNetwork extends Waiting {
    lines = [];
    #unacknowledged = new Map();
    #sent = 0;

    constructor(directory) {
        super();
        this.directory = directory;
    }

    startBridge() {
        const script = fileURLToPath(new URL("bridge.mjs", import.meta.url));
        const env = { ...process.env, BRIDGE_DIRECTORY: this.directory };
        const stdio = ["pipe", "pipe", "inherit"];
        const bridge = spawn(process.execPath, [script], { env, stdio });
        this.bridge = bridge;
        // Killed while something is written to it.
        bridge.stdin.on("error", nothing);
        bridge.on("exit", (code) => {
            if (code !== null) {
                console.log(`the bridge has stopped: ${code}`);
                process.exit(1);
            }
        });
        this.closed = once(bridge, "close");
        createInterface({ input: bridge.stdout }).on("line", (line) => {
            console.log(`bridge: ${line}`);
            if (!line.startsWith("{")) return;
            const told = JSON.parse(line);
            this.#unacknowledged.delete(told.sent);
            this.lines.push(told);
            this.check();
        });
        for (const line of this.#unacknowledged.values()) this.#write(line);
    }

    async killBridge() {
        this.bridge.kill("SIGKILL");
        await this.closed;
    }

    #write(line) {
        this.bridge.stdin.write(`${JSON.stringify(line)}\n`);
    }

    say(from, body) {
        this.#sent += 1;
        const line = { id: this.#sent, from, body };
        this.#unacknowledged.set(line.id, line);
        this.#write(line);
    }

    /** Messages from Matrix, as they came. */
    heard() {
        return this.lines.filter((line) => line.event).map((line) => line.body);
    }

    has(predicate) {
        return this.lines.some(predicate);
    }
}

/** A client that syncs all the time. */
class Alice extends Waiting {
    messages = [];

    static async register() {
        const anonymous = sdk.createClient({ baseUrl, logger: quiet });
        const request = { username: "alice", password: "a good password" };
        const challenge = await anonymous.registerRequest(request).catch((error) => error);
        request.auth = { type: "m.login.dummy", session: challenge.data.session };
        const answer = await anonymous.registerRequest(request);
        const alice = new Alice();
        alice.client = sdk.createClient({
            baseUrl,
            logger: quiet,
            userId: answer.user_id,
            deviceId: answer.device_id,
            accessToken: answer.access_token,
        });
        const saw = (event) => {
            alice.messages.push(`${event.getSender()} ${event.getContent().body}`);
            alice.check();
        };
        alice.client.on(RoomEvent.Timeline, (event, _room, toStartOfTimeline) => {
            const own = event.getSender() === ALICE;
            if (event.getType() === "m.room.message" && !own && !toStartOfTimeline) saw(event);
        });
        alice.client.on(RoomMemberEvent.Membership, () => alice.check());
        alice.client.on(ClientEvent.Sync, () => alice.check());
        await alice.client.startClient({ initialSyncLimit: 20, pollTimeout: 10_000 });
        return alice;
    }
}

async function converse(directory) {
    const network = new OtherNetwork(directory);
    network.startBridge();
    await network.until("the bridge is there", () => network.has((line) => line.ready));
    const alice = await Alice.register();
    const { roomId } = await alice.client.joinRoom(ALIAS);
    const ghost = () => alice.client.getRoom(roomId)?.getMember(BOB)?.membership;
    await alice.until("alice sees the ghost", () => ghost() === "join");
    await network.until("alice came", () => network.has((line) => line.joined === ALICE));

    const spoken = [];
    const expected = [];
    async function say(body) {
        spoken.push(body);
        await alice.client.sendTextMessage(roomId, body);
    }
    const heard = () => network.heard().length >= spoken.length;
    const answered = () => alice.messages.length >= expected.length;
    function answer(body) {
        expected.push(`${BOB} ${body}`);
        network.say("bob", body);
    }

    async function exchange(number) {
        await say(`To the other side, ${number}`);
        await network.until("the other side hears", heard);
        answer(`From the other side, ${number}`);
        await alice.until("alice hears", answered);
    }

    await exchange(1);
    await alice.client.sendTyping(roomId, true, 30_000);
    await network.until("sees typing", () => network.has((line) => line.typing?.includes(ALICE)));

    // The bridge is away for a while.
    await network.killBridge();
    for (let number = 0; number < 5; number += 1) await say(`the bridge is away ${number}`);
    network.startBridge();
    await network.until("the other side hears what waited", heard);
    await exchange(2);

    // Then both: the bridge comes back before the homeserver does.
    await network.killBridge();
    for (let number = 0; number < 3; number += 1) await say(`nobody there ${number}`);
    await ask("kill");
    network.startBridge();
    for (let number = 0; number < 3; number += 1) answer(`into the dark ${number}`);
    await sleep(500);
    await ask("start");
    await network.until("the other side hears what waited", heard);
    await alice.until("alice hears what waited", answered);

    await exchange(3);
    assert.deepEqual(network.heard(), spoken);
    assert.deepEqual(alice.messages, expected);
    alice.client.stopClient();
    await network.killBridge();
}

const directory = mkdtempSync(`${tmpdir()}/bridge-`);
const limit = setTimeout(() => {
    console.log("it takes too long");
    process.exit(1);
}, LIMIT_MS);
try {
    await converse(directory);
    console.log("conversation complete");
} finally {
    clearTimeout(limit);
    rmSync(directory, { recursive: true, force: true });
}
process.exit(0);
