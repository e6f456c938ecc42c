// Loaded before anything else. The native library that matrix-bot-sdk encrypts with is not on npm,
// and the package that wants to download it fails without it; a bridge that does not encrypt can do
// without.

const Module = require("node:module");

const load = Module._load;
Module._load = function (request, ...others) {
    if (request === "@matrix-org/matrix-sdk-crypto-nodejs") return {};
    return load.call(this, request, ...others);
};
