// A small bridge, made with matrix-appservice-bridge: what a line of JSON on standard input or
// output is on one side is a message of a ghost on the other.
//
// It is told by the environment where the homeserver is (HOMESERVER_URL), where its registration file
// is, as JSON (REGISTRATION), and where it may keep things (BRIDGE_DIRECTORY). All that it knows is
// there, so that it can be killed and started again.
//
// A line on standard input, {"id", "from", "body"}, is acknowledged by {"sent": id} once it is in the
// room. The other network sends it again until then; the ID makes it the same message.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.env.INTEROP_NODE_MODULES}/`);
createRequire(import.meta.url)("./no-native-crypto.cjs");
const { AppServiceRegistration, Bridge } = require("matrix-appservice-bridge");

const DOMAIN = "complement.test";
const file = (name) => `${process.env.BRIDGE_DIRECTORY}/${name}`;
const tell = (line) => console.log(JSON.stringify(line));

const registration = AppServiceRegistration.fromObject(JSON.parse(readFileSync(process.env.REGISTRATION)));
const portal = () => existsSync(file("portal")) && readFileSync(file("portal"), "utf8");

const bridge = new Bridge({
    homeserverUrl: process.env.HOMESERVER_URL,
    domain: DOMAIN,
    registration,
    // They do not work with this version of Node.
    disableStores: true,
    suppressEcho: true,
    controller: {
        // Somebody asks for the alias: the room is made.
        onAliasQuery: (alias, localpart) => {
            if (alias !== `#_net_lobby:${DOMAIN}`) return null;
            return {
                creationOpts: { room_alias_name: localpart, preset: "public_chat", name: "The lobby" },
            };
        },
        onAliasQueried: async (_alias, room) => {
            writeFileSync(file("portal"), room);
            await bridge.getIntent(`@_net_bob:${DOMAIN}`).join(room);
        },
        // A ghost that somebody looks for is there.
        onUserQuery: () => ({}),
        onEvent: (request) => {
            const event = request.getData();
            if (event.room_id !== portal()) return;
            if (event.type === "m.room.member" && event.content.membership === "join") {
                tell({ joined: event.state_key });
            } else if (event.type === "m.room.message") {
                tell({ event: event.event_id, sender: event.sender, body: event.content.body });
            }
        },
        onEphemeralEvent: (request) => {
            const event = request.getData();
            if (event.type === "m.typing") tell({ typing: event.content.user_ids });
        },
    },
});

/** Tries again while the homeserver is away. */
async function untilAnswered(what) {
    for (;;) {
        try {
            return await what();
        } catch (error) {
            if (error.statusCode && error.statusCode < 500) throw error;
            await sleep(200);
        }
    }
}

/** Brings a message of the other network into the room. */
async function say({ id, from, body }) {
    const room = portal();
    const intent = bridge.getIntent(`@_net_${from}:${DOMAIN}`);
    await intent.join(room);
    const path = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/send/m.room.message/net-${id}`;
    const content = { msgtype: "m.text", body };
    const { event_id: event } = await intent.matrixClient.doRequest("PUT", path, null, content);
    tell({ sent: id, event_id: event });
}

await bridge.initialise();
await bridge.listen(Number(process.env.BRIDGE_PORT), "127.0.0.1");
await untilAnswered(() => bridge.getIntent().ensureRegistered());
tell({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
    await untilAnswered(() => say(JSON.parse(line)));
}
process.exit(0);
