// Two people use Hydrogen, a web client, in Chromium, each in a browser of their own: they log in,
// one makes a room, the other joins it, they talk, and what is seen is what was
// said; also after the server was killed meanwhile. SCREENSHOTS names the directory for pictures.
//
// The test that starts this script controls the server: `ask("kill")` and `ask("start")` print a
// request and wait until it is answered on standard input.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = process.env.INTEROP_BROWSER_MODULES;
const load = (file) => import(pathToFileURL(join(modules, file)));
const { chromium } = (await load("playwright-core/index.js")).default;
const esbuild = (await load("esbuild/lib/main.js")).default;

const homeserver = process.env.HOMESERVER_URL;
const screenshots = process.env.SCREENSHOTS;
const LIMIT_MS = 60_000;
const PASSWORD = "a good password";

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
    console.log(`please ${what}`);
    assert.equal((await answers.next()).value, `done ${what}`);
}

/** Serves the page, the SDK's files and what encryption needs, on a free port. */
async function serve() {
    const bundle = await esbuild.build({
        entryPoints: [join(here, "page.js")],
        bundle: true,
        format: "esm",
        nodePaths: [modules],
        // What the encryption library asks for where it is not in a browser.
        external: ["fs", "path", "crypto"],
        write: false,
        logLevel: "error",
    });
    const sdk = join(modules, "hydrogen-view-sdk");
    const html = `<!doctype html><meta charset="utf-8"><title>Hydrogen</title>
        <link rel="stylesheet" href="/sdk/theme-element-light.css">
        <body class="hydrogen" id="app" style="height: 100vh; margin: 0">
        <script>window.homeserver = ${JSON.stringify(homeserver)}</script>
        <script type="module" src="/page.js"></script>`;
    const types = { js: "text/javascript", css: "text/css", html: "text/html", wasm: "application/wasm" };
    const files = (path) => {
        // The second is what the service worker asks for.
        if (path === "/" || path === "/index.html") return html;
        if (path === "/page.js") return bundle.outputFiles[0].contents;
        if (path === "/sw.js") return readFileSync(join(sdk, "lib-build/sw.js"));
        const [, folder, name] = path.match(/^\/(sdk|olm)\/([\w.-]+)$/) ?? [];
        const folders = { sdk: join(sdk, "asset-build/assets"), olm: join(modules, "@matrix-org/olm") };
        return folder && readFileSync(join(folders[folder], name));
    };
    const server = createServer((request, response) => {
        const { pathname } = new URL(request.url, "http://localhost");
        try {
            const body = files(pathname);
            const kind = pathname === "/" ? "html" : pathname.split(".").pop();
            response.writeHead(body ? 200 : 404, { "content-type": types[kind] ?? "application/octet-stream" });
            response.end(body);
        } catch {
            response.writeHead(404).end();
        }
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return { server, url: `http://127.0.0.1:${server.address().port}/` };
}

async function request(method, path, body, token) {
    const headers = { "content-type": "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    const answer = await fetch(`${homeserver}/_matrix/client/v3/${path}`, {
        method,
        headers,
        body: JSON.stringify(body),
    });
    assert.equal(answer.status, 200, `${path}: ${answer.status}`);
    return answer.json();
}

/** Somebody with an account and a browser that was never used before. */
class Person {
    static async at(browser, url, name) {
        const username = `${name}-${randomBytes(4).toString("hex")}`;
        const account = { username, password: PASSWORD, auth: { type: "m.login.dummy" } };
        const { user_id } = await request("POST", "register", account);
        const context = await browser.newContext({ viewport: { width: 1100, height: 700 } });
        context.setDefaultTimeout(LIMIT_MS);
        const page = await context.newPage();
        const person = new Person();
        Object.assign(person, { username, user_id, page, context });
        page.on("pageerror", (error) => console.log(`${name}'s page: ${error}`));
        await page.goto(url);
        await page.fill("#username", username);
        await page.fill("#password", PASSWORD);
        await page.click("text=Log In");
        await page.waitForSelector(".LeftPanel");
        return person;
    }

    async menu(option) {
        await this.page.click(".LeftPanel button.create");
        await this.page.click(`.menu >> text="${option}"`);
    }

    /** Makes a room; returns when it is shown. */
    async create(name, { isPublic, alias }) {
        await this.menu("Create Room");
        await this.page.fill("#name", name);
        await this.page.check(isPublic ? "#isPublic" : "#isPrivate");
        if (alias) await this.page.fill("#roomAlias", alias);
        await this.page.click(".CreateRoomView button[type=submit]");
        await this.open(name);
    }

    async join(alias) {
        await this.menu("Join Room");
        await this.page.fill(".JoinRoomView #id", alias);
        await this.page.click(".JoinRoomView button[type=submit]");
        await this.page.waitForSelector(".RoomView .MessageComposer");
    }

    async open(name) {
        await this.page.click(`.RoomList >> text="${name}"`);
        await this.page.waitForSelector(".RoomView .MessageComposer");
    }

    async say(text) {
        await this.page.fill(".MessageComposer textarea", text);
        await this.page.press(".MessageComposer textarea", "Enter");
    }

    /** Waits until a message is shown in the room's timeline; sent, not only written. */
    async sees(text) {
        await this.page.waitForSelector(`.Timeline_message:not(.unsent) >> text="${text}"`);
    }

    async picture(name) {
        if (screenshots) await this.page.screenshot({ path: join(screenshots, `${name}.png`) });
    }
}

if (screenshots) mkdirSync(screenshots, { recursive: true });
const { server, url } = await serve();
const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
const people = [];
try {
    const alice = await Person.at(browser, url, "alice");
    people.push(alice);
    const bob = await Person.at(browser, url, "bob");
    people.push(bob);
    console.log("both are logged in");

    const serverName = alice.user_id.slice(alice.user_id.indexOf(":") + 1);
    const alias = `garden-${randomBytes(4).toString("hex")}`;
    await alice.create("The garden", { isPublic: true, alias });
    await bob.join(`#${alias}:${serverName}`);
    await alice.say("Is the gate open?");
    await bob.sees("Is the gate open?");
    await bob.say("It is. Come in!");
    await alice.sees("It is. Come in!");
    console.log("they talk");

    await ask("kill");
    await alice.say("And the pond?");
    await ask("start");
    await bob.sees("And the pond?");
    await bob.say("Full of frogs");
    await alice.sees("Full of frogs");
    await alice.picture("hydrogen-alice");
    await bob.picture("hydrogen-bob");

    // A new page has it all from the server's answers and what it kept.
    await bob.page.reload();
    await bob.open("The garden");
    for (const text of ["Is the gate open?", "It is. Come in!", "And the pond?", "Full of frogs"]) {
        await bob.sees(text);
    }
    console.log("conversation complete");
} catch (error) {
    for (const person of people) {
        await person.picture(`hydrogen-failed-${person.username.split("-")[0]}`);
        console.log(await person.page.innerText("body"));
    }
    throw error;
} finally {
    await browser.close();
    server.close();
}
// Standard input is still listened to.
process.exit(0);
