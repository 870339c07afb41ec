// Keys, mouse and touch become the one action that is held.
const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "space" };

export class Keys {
  constructor(element, hold) {
    this.element = element;
    this.hold = hold;
    this.actions = [];
    this.down = new Set(); // names of keys
    this.pressed = null; // action of the button under a finger
    this.now = null;
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.release());
  }

  offer(actions) {
    this.actions = actions;
    this.element.replaceChildren(...actions.map((one) => this.button(one)));
    this.release();
  }

  button({ action, label, chords }) {
    const button = document.createElement("button");
    button.className = "key";
    button.dataset.action = action;
    const caps = document.createElement("span");
    caps.className = "caps";
    for (const chord of chords.slice(0, 2)) {
      const cap = document.createElement("kbd");
      cap.textContent = chord.map((key) => NAMES[key] ?? key.toUpperCase()).join(" ");
      caps.append(cap);
    }
    const text = document.createElement("span");
    text.textContent = label;
    button.append(caps, text);
    button.onpointerdown = (event) => {
      button.setPointerCapture(event.pointerId);
      this.pressed = action;
      this.update();
    };
    button.onpointerup = button.onpointercancel = () => { this.pressed = null; this.update(); };
    button.oncontextmenu = (event) => event.preventDefault(); // a long touch holds the key
    return button;
  }

  key(event, isDown) {
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const known = this.actions.some(({ chords }) => chords.some((chord) => chord.includes(name)));
    if (isDown && (!known || event.ctrlKey || event.metaKey || event.altKey)) return;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (known) event.preventDefault();
    if (isDown) this.down.add(name); else this.down.delete(name);
    if (!event.repeat) this.update();
  }

  // Of all chords whose keys are down, the longest; of these the one whose last key came last.
  chosen() {
    const order = [...this.down];
    let best = null;
    for (const { action, chords } of this.actions) {
      for (const chord of chords) {
        if (!chord.every((key) => this.down.has(key))) continue;
        const rank = [chord.length, Math.max(...chord.map((key) => order.indexOf(key)))];
        if (!best || rank[0] > best.rank[0] || (rank[0] === best.rank[0] && rank[1] > best.rank[1])) best = { action, rank };
      }
    }
    return best ? best.action : null;
  }

  update() {
    const action = this.pressed ?? this.chosen();
    for (const button of this.element.children) button.classList.toggle("down", Number(button.dataset.action) === action);
    if (action !== this.now) this.hold((this.now = action));
  }

  release() {
    this.down.clear();
    this.pressed = null;
    this.update();
  }
}
