// The page: what the server says is shown, what the player does is sent. Nothing is computed here.
import { Keys } from "./keys.js";
import { show, draw, notice, lamp, hello } from "./view.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [0.5, 1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 30, 60];
let socket = null;
let state = null;
let asked = 0;
const sentAt = new Map(); // when an order with this id was sent
let pending = null;
let delay = 300;

function send(order, value = null) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const id = ++asked;
  if (order === "hold" && value !== null) sentAt.set(id, performance.now());
  socket.send(JSON.stringify({ do: order, value, id: sentAt.has(id) ? id : undefined }));
}

const keys = new Keys($("keys"), (action) => send("hold", action));

function connect() {
  socket = new WebSocket(new URL("socket", location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { delay = 300; lamp("on", "connected"); };
  socket.onmessage = (event) => typeof event.data === "string" ? told(JSON.parse(event.data)) : pictured(event.data);
  socket.onclose = (event) => {
    keys.release();
    lamp("off", "no connection, trying again");
    if (event.reason) notice(event.reason, true);
    setTimeout(connect, event.code === 1008 || event.code === 1013 ? 5000 : delay);
    delay = Math.min(2 * delay, 4000);
  };
}

function told(message) {
  if (message.type === "hello") {
    hello(message);
    keys.offer(message.actions);
  } else if (message.type === "state") {
    state = message;
    pending = message.answer;
    show(message);
    if (document.activeElement !== $("speed")) {
      $("speed").value = SPEEDS.findIndex((speed) => speed >= message.speed - 1e-9);
    }
  } else {
    notice(message.text, message.type === "error");
  }
}

async function pictured(data) {
  const bytes = new Uint8Array(data);
  const side = bytes[0] === 0 ? "real" : "dream";
  const answer = side === "dream" ? pending : null;
  await draw($(side), new Blob([bytes.subarray(1)], { type: "image/png" }));
  if (sentAt.has(answer)) {
    const took = performance.now() - sentAt.get(answer);
    for (const id of sentAt.keys()) if (id <= answer) sentAt.delete(id);
    document.body.dataset.latency = took.toFixed(1);
    document.body.dataset.answers = 1 + Number(document.body.dataset.answers ?? 0);
    show(state);
  }
}

const clicks = {
  pause: () => send("pause", !state.paused),
  step: () => send("step"),
  next: () => send("begin", state.number + 1),
  again: () => send("begin", state.number),
  keep: () => send("keep"),
  back: () => send("back"),
  policy: () => send("policy", !state.policy),
  take: () => send("take"),
  "save-episode": () => send("save", "episode"),
  "save-video": () => send("save", "video"),
};
for (const [id, act] of Object.entries(clicks)) {
  $(id).onclick = () => { notice(""); if (state) act(); $(id).blur(); };
}
$("steps").onchange = (event) => { send("steps", Number(event.target.value)); event.target.blur(); };
$("uncertainty").onchange = (event) => { send("uncertainty", event.target.value); event.target.blur(); };
$("idle").onchange = (event) => { send("idle", event.target.value === "" ? null : Number(event.target.value)); event.target.blur(); };
$("speed").oninput = (event) => send("speed", SPEEDS[Number(event.target.value)]);
$("speed").onchange = (event) => event.target.blur();
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target === document.body && state) clicks.pause();
});
document.addEventListener("visibilitychange", () => {
  keys.release();
  if (document.hidden && state?.drives && !state.paused) send("pause", true);
});
connect();
