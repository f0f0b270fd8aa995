// A recording as a page: a strip of time, a list of which only what is seen is made, and replaying.

import { infer, replayed } from "./asking.mjs";
import { droppable } from "./fields.mjs";
import { arrayOf, columns, compared, matching, readRecording, replayable } from "./recordings.mjs";
import { duration } from "./shaping.mjs";

const ROW = 28; // pixels, as in console.css
const STRIP = 240; // columns
const SHOWN = 20000; // letters of an entry
const REDRAWN = 200; // milliseconds between redrawings while replies come
const byId = (id) => document.getElementById(id);
const pause = () => new Promise((resolve) => setTimeout(resolve));

/** The part of the page that shows a recording. */
export class Recorder {
  constructor() {
    this.all = this.seen = [];
    this.found = new Map();
    this.chosen = null;
    this.list = byId("entries");
    this.list.addEventListener("scroll", () => this.drawRows());
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("[data-index]");
      if (row) this.choose(Number(row.dataset.index));
    });
    byId("find").addEventListener("input", () => this.filter());
    byId("recording").addEventListener("change", (event) => this.open(event.target.files[0]));
    byId("replay").addEventListener("submit", (event) => { event.preventDefault(); this.replay(); });
    droppable(byId("recordings"), (file) => this.open(file));
    byId("against").addEventListener("change", () => { byId("as-input").hidden = !byId("against").value; });
  }

  /** The array of the chosen command that a field asks for. */
  draw(name) {
    if (this.chosen === null) throw new Error("choose a command of a recording below");
    return arrayOf(this.seen[this.chosen], name);
  }

  async open(file) {
    if (!file) return;
    this.say(`reading ${file.name} …`);
    try {
      this.all = await readRecording(await file.text(), pause);
    } catch (error) {
      this.all = [];
      this.say(`${file.name}: ${error.message}`);
    }
    this.file = file;
    this.found.clear();
    byId("entries-of").hidden = !this.all.length;
    if (this.all.length) this.filter();
  }

  say(text) {
    byId("recorded").textContent = text;
  }

  filter() {
    this.seen = matching(this.all, byId("find").value);
    this.chosen = null;
    byId("entry").textContent = "";
    const failed = this.seen.filter((one) => one.outcome !== "ok").length;
    this.say(`${this.seen.length} of ${this.all.length} commands, ${failed} without a result`);
    this.strip();
    this.list.scrollTop = 0;
    this.drawRows();
  }

  strip() {
    const canvas = byId("strip"), pen = canvas.getContext("2d"), found = columns(this.seen, STRIP);
    const most = Math.max(1, ...found.map((one) => one.all));
    const style = getComputedStyle(document.documentElement);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (const [index, one] of found.entries()) {
      const width = canvas.width / STRIP;
      for (const [count, colour] of [[one.all, "--mark"], [one.failed, "--bad"]]) {
        const height = count ? Math.max(2, (count / most) * canvas.height) : 0;
        pen.fillStyle = style.getPropertyValue(colour);
        pen.fillRect(index * width, canvas.height - height, width - 0.5, height);
      }
    }
  }

  drawRows() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 5);
    const last = Math.min(this.seen.length, first + Math.ceil(this.list.clientHeight / ROW) + 10);
    const rows = byId("rows"), begun = this.all[0]?.time ?? 0;
    byId("height").style.height = `${this.seen.length * ROW}px`;
    rows.style.transform = `translateY(${first * ROW}px)`;
    rows.replaceChildren(...this.seen.slice(first, last).map((one, offset) => this.row(one, first + offset, begun)));
    this.list.setAttribute("aria-activedescendant", this.chosen === null ? "" : `entry-${this.chosen}`);
  }

  row(one, index, begun) {
    const row = document.createElement("div");
    row.dataset.index = index;
    row.id = `entry-${index}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(index === this.chosen));
    row.className = one.outcome === "ok" ? "" : "wrong";
    const took = one.seconds === null ? one.outcome : `${(one.seconds * 1000).toFixed(1)} ms`;
    const again = this.found.get(one)?.text ?? one.error ?? "";
    for (const text of [one.n, `+${duration(one.time - begun)}`, `${one.command} ${one.node}`, took, again]) {
      const cell = document.createElement("span");
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }

  choose(index) {
    this.chosen = Math.min(Math.max(index, 0), this.seen.length - 1);
    const top = this.chosen * ROW;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    const bottom = top + ROW - this.list.clientHeight;
    if (bottom > this.list.scrollTop) this.list.scrollTop = bottom;
    const { asked, answered } = this.seen[this.chosen];
    const text = JSON.stringify({ asked: asked.message, answered: answered?.message ?? null }, null, 1);
    byId("entry").textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}\n…` : text;
    this.drawRows();
  }

  key(event) {
    const page = Math.floor(this.list.clientHeight / ROW);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.seen.length) return;
    event.preventDefault();
    this.choose(this.chosen === null ? 0 : this.chosen + steps[event.key]);
  }

  offer(names) {
    const select = byId("against");
    if (select.options.length && String([...select.options].slice(1).map((one) => one.value)) === String(names)) return;
    const chosen = select.value;
    select.replaceChildren(new Option("a new worker", ""), ...names.map((name) => new Option(`the model ${name}`, name)));
    if (names.includes(chosen)) select.value = chosen;
    byId("as-input").hidden = !select.value;
  }

  async replay() {
    const model = byId("against").value, counts = {};
    const count = (one, kind, text) => {
      counts[kind] = (counts[kind] ?? 0) + 1;
      if (one) this.found.set(one, { kind, text: text ? `${kind}: ${text}` : kind });
      this.say(`${model || "a new worker"}: ${Object.entries(counts).map((pair) => pair.reverse().join(" ")).join(", ")}`);
    };
    this.found.clear();
    try {
      await (model ? this.askModel(model, count) : this.askWorker(count));
    } catch (error) {
      this.say(error.message);
    }
    this.drawRows();
  }

  /** Runs every command of the file again, byte for byte, in a new worker. */
  async askWorker(count) {
    const byNumber = new Map(this.all.map((one) => [one.n, one]));
    let drawn = performance.now();
    await replayed(this.file, ({ n, verdict, detail }) => {
      count(byNumber.get(n), verdict, detail);
      if (performance.now() - drawn > REDRAWN) {
        this.drawRows();
        drawn = performance.now();
      }
    });
  }

  /** Asks a model about the arrays of the commands that are listed. */
  async askModel(model, count) {
    for (const one of this.seen) {
      const again = replayable(one);
      if (!again) {
        count(null, "not compared");
        continue;
      }
      try {
        const { outputs } = await infer(model, [{ name: byId("input-name").value, ...again.given }]);
        const { same, text } = compared(again.wanted, outputs[0]);
        count(one, same ? "same" : "different", same ? "" : text);
      } catch (error) {
        count(one, "failed", error.message);
      }
    }
  }
}
