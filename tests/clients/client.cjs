// Drives centrifuge-js, unmodified, for the end-to-end tests: `node client.cjs DIR [protobuf]`, where DIR/node_modules has the
// SDK. With `protobuf` payloads are bytes, which are JSON here all the same.
//
// In: one JSON object a line, {"id", "op", ...}. Out: {"reply": id, "result" | "error"} for each, and
// {"event", ...} for whatever the SDK reports. Ends at the end of its input.
"use strict";

const { createRequire } = require("node:module");
const readline = require("node:readline");

const load = createRequire(`${process.argv[2]}/`);
const protobuf = process.argv[3] === "protobuf";
const { Centrifuge } = load(protobuf ? "centrifuge/build/protobuf" : "centrifuge");
const WebSocket = load("ws");

let client;

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const room = (name) => client.getSubscription(name);
const person = (info) => ({ user: info.user, client: info.client });
const packed = (data) => (protobuf ? new TextEncoder().encode(JSON.stringify(data)) : data);
const unpacked = (data) => (protobuf && data !== undefined ? JSON.parse(new TextDecoder().decode(data)) : data);
const publication = (p) => ({ data: unpacked(p.data), offset: p.offset, user: p.info?.user, tags: p.tags });

const operations = {
  // `tokens` are used one after the other. `url` may be a list of transports, `emulation` is where these send to.
  connect({ url, user, tokens, emulation }) {
    const getToken = tokens ? async () => tokens.shift() : null;
    const data = packed({ user });
    const http = emulation ? { emulationEndpoint: emulation, fetch, readableStream: ReadableStream } : {};
    client = new Centrifuge(url, { websocket: WebSocket, ...http, data, getToken, minReconnectDelay: 50, maxReconnectDelay: 500 });
    const own = (event, name, rest) => say({ event: `server_${event}`, room: name, ...rest });
    client.on("subscribed", (c) => own("subscribed", c.channel, { recovered: c.recovered, was_recovering: c.wasRecovering }));
    client.on("publication", (c) => own("publication", c.channel, publication(c)));
    client.on("connecting", (c) => say({ event: "connecting", code: c.code, reason: c.reason }));
    client.on("connected", (c) => say({ event: "connected", client: c.client }));
    client.on("disconnected", (c) => say({ event: "disconnected", code: c.code, reason: c.reason }));
    client.on("error", (c) => say({ event: "error", code: c.error.code, message: c.error.message }));
    client.connect();
  },
  subscribe({ room: name, tokens }) {
    const getToken = tokens ? async () => tokens.shift() : null;
    const sub = client.newSubscription(name, { joinLeave: true, recoverable: true, minResubscribeDelay: 50, getToken });
    const tell = (event, rest) => say({ event, room: name, ...rest });
    sub.on("subscribing", (c) => tell("subscribing", { code: c.code, reason: c.reason }));
    sub.on("subscribed", (c) =>
      tell("subscribed", {
        recoverable: c.recoverable,
        was_recovering: c.wasRecovering,
        recovered: c.recovered,
        offset: c.streamPosition?.offset,
        epoch: c.streamPosition?.epoch,
      }),
    );
    sub.on("unsubscribed", (c) => tell("unsubscribed", { code: c.code, reason: c.reason }));
    sub.on("publication", (p) => tell("publication", publication(p)));
    sub.on("join", (c) => tell("join", person(c.info)));
    sub.on("leave", (c) => tell("leave", person(c.info)));
    sub.on("error", (c) => tell("error", { code: c.error.code, message: c.error.message }));
    sub.subscribe();
  },
  unsubscribe: ({ room: name }) => room(name).unsubscribe(),
  resubscribe: ({ room: name }) => room(name).subscribe(),
  publish: ({ room: name, data }) => client.publish(name, packed(data)),
  async presence({ room: name }) {
    const { clients } = await client.presence(name);
    return Object.fromEntries(Object.entries(clients).map(([id, info]) => [id, person(info)]));
  },
  async presence_stats({ room: name }) {
    const stats = await client.presenceStats(name);
    return { clients: stats.numClients, users: stats.numUsers };
  },
  async history({ room: name, limit, since, reverse }) {
    const page = await client.history(name, { limit, since, reverse });
    return { offset: page.offset, epoch: page.epoch, publications: page.publications.map(publication) };
  },
  rpc: async ({ method, data }) => unpacked((await client.rpc(method, packed(data))).data),
  send: ({ data }) => client.send(packed(data)),
  disconnect: () => client.disconnect(),
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line);
  try {
    const result = await operations[command.op](command);
    say({ reply: command.id, result: result ?? {} });
  } catch (error) {
    say({ reply: command.id, error: { code: error.code, message: error.message ?? String(error) } });
  }
}).on("close", () => process.exit(0));
