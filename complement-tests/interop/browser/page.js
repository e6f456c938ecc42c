// The web client Hydrogen, put together from its SDK.
//
// Everything that it shows and does is the SDK's.

import {
    createNavigation,
    createRouter,
    FeatureSet,
    Platform,
    RootView,
    RootViewModel,
} from "hydrogen-view-sdk";

const container = document.querySelector("#app");
const assetPaths = {
    downloadSandbox: "/sdk/download-sandbox.html",
    worker: "/sdk/main.js",
    olm: {
        wasm: "/olm/olm.wasm",
        legacyBundle: "/olm/olm_legacy.js",
        wasmBundle: "/olm/olm.js",
    },
    serviceWorker: "/sw.js",
};
const config = { defaultHomeServer: window.homeserver };
const platform = new Platform({ container, assetPaths, config, options: { development: false } });
await platform.init();
const navigation = createNavigation();
platform.setNavigation(navigation);
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const root = new RootViewModel({ platform, urlRouter, navigation, features });
await root.load();
container.appendChild(new RootView(root).mount());
