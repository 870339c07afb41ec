// What the server says, on the page.
const $ = (id) => document.getElementById(id);
const text = (id, value) => { if ($(id).textContent !== value) $(id).textContent = value; };
const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
const width = (id, share) => { $(id).style.width = `${100 * Math.min(1, Math.max(0, share))}%`; };
let actions = [];
let hasPolicy = false;
let policyName = "";
let mostDoubt = { kind: "", value: 0 };

export function hello(message) {
  actions = message.actions;
  hasPolicy = message.policy !== null;
  policyName = message.policy ?? "";
  text("world", message.world);
  text("about", `${message.real ? "The real world and its dream, driven by the same keys" : "A dream"} · ${message.checkpoint}, trained for ${message.trained.toLocaleString("en")} steps`);
  document.title = `${message.world}: play a dream`;
  $("real-side").hidden = !message.real;
  $("policy").hidden = !hasPolicy;
  $("policy").title = policyName;
  $("steps").replaceChildren(...message.steps.map((steps) => new Option(steps, steps)));
  $("idle").replaceChildren(new Option("the worlds wait", ""), ...actions.map((one) => new Option(one.label, one.action)));
}

export function show(state) {
  const { dream, real } = state;
  side("dream", dream);
  if (real) side("real", real);
  veil("dream-veil", dream.ended ? "Ended, says the dream" : dream.full ? "Full: begin anew" : "");
  veil("real-veil", real?.ended ? "Ended" : "");
  text("dream-note", `${dream.steps} denoising ${dream.steps === 1 ? "step" : "steps"}`);
  text("real-note", real?.apart ? "has not gone back" : "");
  text("hint", hint(state));

  width("end-bar", dream.termination ?? 0);
  text("end-value", dream.termination === null ? "–" : `${(100 * dream.termination).toFixed(1)} %`);
  if (mostDoubt.kind !== dream.kind) mostDoubt = { kind: dream.kind, value: 0 };
  mostDoubt.value = Math.max(mostDoubt.value, dream.uncertainty ?? 0);
  width("doubt-bar", mostDoubt.value ? (dream.uncertainty ?? 0) / mostDoubt.value : 0);
  text("doubt-value", dream.uncertainty === null ? "–" : `${number(dream.uncertainty, 3)}${dream.kind === "heads" ? " nat" : ""}`);
  text("doubt-name", dream.kind === "draws" ? "Uncertainty (RMS)" : "Uncertainty");

  const given = state.past;
  width("memory-real", given / dream.memory);
  width("memory-dream", (dream.memory - given) / dream.memory);
  text("memory-value", `${dream.memory.toLocaleString("en")}`);
  const window = dream.window === null ? "It attends to all of them." : `It attends to the last ${dream.window}; what lies further back is in the state.`;
  text("memory-text", `${given} real and ${dream.memory - given} dreamt frames read, back to the start of the recording. ${window}`);
  const latency = document.body.dataset.latency;
  text("pace", [
    dream.milliseconds === null ? "" : `Dream: ${dream.milliseconds.toFixed(0)} ms a frame, up to ${number(1000 / dream.milliseconds, 1)} frames per second.`,
    real && real.milliseconds !== null ? `Real world: ${real.milliseconds.toFixed(0)} ms.` : "",
    latency ? `Key to picture: ${Number(latency).toFixed(0)} ms.` : "",
  ].filter(Boolean).join(" ") || "No frame was dreamt yet.");

  text("pause", state.paused ? "Play" : "Pause");
  text("again", `Same again (${state.number})`);
  text("back", state.kept === null ? "Go back" : `Go back to ${state.kept}`);
  text("policy", state.policy ? "Take over from the policy" : "Hand over to the policy");
  $("policy").setAttribute("aria-pressed", state.policy);
  $("take").hidden = state.drives;
  for (const control of document.querySelectorAll("button:not(#take), input, select")) control.disabled = !state.drives;
  $("back").disabled ||= state.kept === null;
  choose("steps", dream.steps);
  choose("uncertainty", dream.kind);
  choose("idle", state.idle ?? "");
  text("speed-value", `${state.speed}/s`);
  lamp("on", state.drives ? (state.pages > 1 ? `you drive, ${state.pages - 1} watching` : "connected") : "watching");
}

export async function draw(canvas, blob) {
  const image = await createImageBitmap(blob);
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  canvas.getContext("2d").drawImage(image, 0, 0);
  image.close();
  canvas.dataset.frames = 1 + Number(canvas.dataset.frames ?? 0);
}

export function notice(sentence, isError = false) {
  text("notice", sentence);
  $("notice").hidden = !sentence;
  $("notice").classList.toggle("error", isError);
}

export function lamp(kind, words) {
  $("lamp").className = kind;
  text("status-text", words);
}

function side(name, told) {
  text(`${name}-reward`, number(told.reward));
  text(`${name}-total`, number(told.total));
  text(`${name}-played`, String(told.played));
}

function veil(id, words) {
  text(id, words);
  $(id).hidden = !words;
}

function choose(id, value) {
  if (document.activeElement !== $(id)) $(id).value = String(value);
}

function hint(state) {
  if (!state.drives) return "Another page drives; this one watches.";
  if (state.over) return "It is over here: go back, or to another context.";
  if (state.policy) return `The policy plays, by what the dream shows. Any key takes over.`;
  if (state.paused) return "Paused: each key press is one step.";
  if (state.real?.notice) return state.real.notice;
  if (state.real?.apart) return "The dream went back; the real world cannot, and goes on from where it stood.";
  if (state.waiting) return "Hold a key, or touch one below.";
  return "";
}
