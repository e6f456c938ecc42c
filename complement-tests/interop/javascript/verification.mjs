// Two users of matrix-js-sdk verify each other by comparing emoji, in a room.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const modules = process.env.INTEROP_NODE_MODULES;
const at = pathToFileURL(`${modules}/matrix-js-sdk/lib/crypto-api/index.js`);
const { CryptoEvent, VerificationPhase, VerificationRequestEvent, VerifierEvent } = await import(at);

/** Waits until the request is in this phase, or past it. */
async function reaches(request, phase) {
    while (request.phase < phase) {
        await new Promise((resolve) => request.once(VerificationRequestEvent.Change, resolve));
    }
    assert.notEqual(request.phase, VerificationPhase.Cancelled, `cancelled: ${request.cancellationCode}`);
}

/** Goes through with it: what is shown, how to say that it is the same, and when all is done. */
function compare(verifier) {
    let done;
    const shown = new Promise((resolve, reject) => {
        verifier.once(VerifierEvent.ShowSas, resolve);
        done = verifier.verify();
        done.catch(reject);
    });
    return { shown, done };
}

/** The first asks, the second agrees; both see the same emoji and say so. */
export async function verifyByEmoji(first, second, roomId) {
    const asked = new Promise((resolve) =>
        second.client.once(CryptoEvent.VerificationRequestReceived, resolve),
    );
    const outgoing = await first.client.getCrypto().requestVerificationDM(second.userId, roomId);
    const incoming = await asked;
    assert.equal(incoming.otherUserId, first.userId);
    assert.equal(incoming.roomId, roomId);
    await incoming.accept();
    await reaches(outgoing, VerificationPhase.Ready);
    assert(outgoing.otherPartySupportsMethod("m.sas.v1"));

    const firsts = compare(await outgoing.startVerification("m.sas.v1"));
    await reaches(incoming, VerificationPhase.Started);
    assert.equal(incoming.chosenMethod, "m.sas.v1");
    const seconds = compare(incoming.verifier);
    const [left, right] = await Promise.all([firsts.shown, seconds.shown]);
    assert.equal(left.sas.emoji.length, 7);
    assert.deepEqual(left.sas.emoji, right.sas.emoji);
    console.log(`both see ${left.sas.emoji.map(([emoji]) => emoji).join(" ")}`);
    await Promise.all([left.confirm(), right.confirm()]);
    await Promise.all([firsts.done, seconds.done]);
    await reaches(outgoing, VerificationPhase.Done);
    await reaches(incoming, VerificationPhase.Done);
    await trusts(first, second);
    await trusts(second, first);
}

/** Waits until one's client trusts the other's identity, and the device that the other vouches for. */
export async function trusts(one, other) {
    const crypto = one.client.getCrypto();
    let user, device;
    // It asks for the keys again when it hears that they were signed.
    do {
        await sleep(50);
        user = await crypto.getUserVerificationStatus(other.userId);
        device = await crypto.getDeviceVerificationStatus(other.userId, other.client.deviceId);
    } while (!user.isCrossSigningVerified() || !device?.crossSigningVerified);
    console.log(`${one.name} trusts ${other.name}`);
}
