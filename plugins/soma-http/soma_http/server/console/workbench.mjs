// A worker of the page's own: filters tried by forms, and commands that are checked as one types.

import { ask, OwnWorker } from "./asking.mjs";
import { Chart, dataField, inputIn, made } from "./fields.mjs";
import { configOf, settingsOf, written } from "./schemas.mjs";
import { duration, size, valueOf } from "./shaping.mjs";
import { BadText, lineAndColumn, parseText, placeOf } from "./texts.mjs";

const TYPING = 150; // milliseconds without a letter, before the server is asked
const EDITED = 20000; // letters of a command that is shown for editing
const SHOWN = 20000; // letters of a reply
const ANY = { datatype: "FP64", shape: [-1] };
const byId = (id) => document.getElementById(id);

/** The part of the page with a worker. `draw` gives an array of the recording that is open. */
export class Workbench {
  constructor(draw) {
    this.worker = this.pid = this.id = this.last = this.settings = null;
    this.x = dataField({ name: "data", ...ANY }, draw);
    this.y = dataField({ name: "y", ...ANY }, draw);
    for (const field of [this.x, this.y]) field.querySelector(".name").closest("label").hidden = true;
    for (const field of this.y.querySelectorAll("[required]")) field.required = false;
    byId("given").append(this.x);
    byId("labels").append(this.y);
    const place = byId("bench-charts");
    this.charts = {
      latency: new Chart("a reply after", (number) => `${number.toFixed(1)} ms`, place),
      cpu: new Chart("CPU", (number) => `${Math.round(number)} %`, place),
      memory: new Chart("memory", size, place),
    };
    this.listen();
  }

  listen() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    on("filter", "focus", () => this.offerFilters());
    on("filter", "change", () => this.describe());
    on("loading", "submit", (event) => { event.preventDefault(); this.load(); });
    on("running", "submit", (event) => { event.preventDefault(); this.run(event.submitter.value); });
    on("sending", "submit", (event) => { event.preventDefault(); this.send(byId("command").value); });
    on("command", "input", () => this.check());
    on("command", "scroll", () => { byId("marked").scrollTop = byId("command").scrollTop; });
    on("interrupt", "click", () => this.id && ask(`workers/${this.id}/interrupt`, { method: "POST" }).catch((error) => this.reply(error.message, true)));
    on("ending", "click", () => this.worker?.close());
  }

  async offerFilters() {
    if (byId("filters").options.length) return;
    const names = await ask("filters");
    byId("filters").replaceChildren(...names.map((name) => new Option(name, name)));
  }

  async describe() {
    const place = byId("settings"), name = byId("filter").value;
    this.settings = null;
    place.replaceChildren();
    byId("filter").setCustomValidity("");
    if (!name) return;
    made("p", "…", place).className = "none";
    try {
      const schema = await ask(`filters/${encodeURIComponent(name)}`);
      this.settings = settingsOf(schema);
      place.replaceChildren(...this.settings.map(settingField));
      if (schema?.description) made("p", schema.description, place).className = "none wide";
    } catch (error) {
      place.replaceChildren();
      byId("filter").setCustomValidity(error.message);
      byId("filter").reportValidity();
    }
  }

  load() {
    const filter = byId("filter").value;
    try {
      const texts = [...byId("settings").querySelectorAll("[data-setting]")].map((field) => field.value);
      const config = configOf(this.settings ?? [], texts);
      this.write({ cmd: "LOAD", filters: [{ id: byId("node").value, filter, config }] });
    } catch (error) {
      this.reply(error.message, true);
    }
  }

  run(cmd) {
    try {
      const command = { cmd, node_id: byId("nodes").value, data: valueOf(inputIn(this.x)) };
      if (cmd === "FIT" && this.y.querySelector(".data").value.trim()) command.y = valueOf(inputIn(this.y));
      this.write(command);
    } catch (error) {
      this.reply(error.message, true);
    }
  }

  /** Puts a command where it can be read and changed, and sends it. */
  write(command) {
    const text = JSON.stringify(command, null, 1);
    byId("command").value = text.length > EDITED ? "" : text;
    this.check();
    this.send(text);
  }

  async send(text) {
    if (!text.trim()) return;
    this.reply("…", false);
    try {
      this.worker ??= new OwnWorker(() => this.ended());
      const begun = performance.now();
      const reply = await this.worker.send(text);
      this.charts.latency.add(performance.now() - begun).draw();
      this.reply(reply.traceback ?? JSON.stringify(reply, null, 1), reply.ok === false);
      await this.list();
    } catch (error) {
      this.reply(error.message, true);
    }
  }

  reply(text, wrong) {
    byId("replied").className = wrong ? "answer wrong" : "answer";
    byId("replied").textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}\n…` : text;
  }

  /** Shows the nodes that the worker has now. */
  async list() {
    if (!this.worker) return;
    this.pid ??= (await this.worker.send('{"cmd":"PING"}')).pid ?? null;
    const { nodes = {}, details = {} } = await this.worker.send('{"cmd":"LIST"}');
    const chosen = byId("nodes").value || byId("node").value;
    byId("nodes").replaceChildren(...Object.keys(nodes).map((id) => new Option(id)));
    if (chosen in nodes) byId("nodes").value = chosen;
    const rows = Object.entries(nodes).map(([id, meta]) => {
      const row = document.createElement("tr");
      const learned = details[id]?.learned ? "learned" : "";
      for (const text of [id, details[id]?.filter ?? meta.name, meta.kind, learned]) made("td", text, row);
      return row;
    });
    byId("loaded").tBodies[0].replaceChildren(...rows);
    byId("loaded").hidden = !rows.length;
  }

  ended() {
    this.worker = this.pid = this.id = this.last = null;
    byId("loaded").hidden = true;
    byId("nodes").replaceChildren();
    byId("bench-status").textContent = "there is no worker; the next command starts one";
  }

  /** What the server says of the clients: one of them is this page. */
  show(clients, now) {
    const own = this.pid === null ? null : clients.find((client) => client.pid === this.pid);
    if (!own) return;
    this.id = own.id;
    const runs = own.command ? `runs ${own.command} for ${duration(own.busy)}` : "";
    byId("bench-status").textContent = `process ${own.pid}, for ${duration(own.seconds)} ${runs}`;
    if (own.memory !== null) this.charts.memory.add(own.memory).draw();
    if (own.cpu !== null && this.last) this.charts.cpu.add(Math.max(0, ((own.cpu - this.last.cpu) / (now - this.last.now)) * 1e5)).draw();
    this.last = own.cpu === null ? null : { cpu: own.cpu, now };
  }

  /** Checks what stands in the editor: how it is written at once, what it means by the server. */
  check() {
    clearTimeout(this.typing);
    const text = byId("command").value;
    if (!text.trim()) return this.mark(null);
    let tree;
    try {
      tree = parseText(text);
    } catch (error) {
      if (!(error instanceof BadText)) throw error;
      return this.mark(error.message, error);
    }
    this.typing = setTimeout(async () => {
      const found = await ask("validate", { method: "POST", body: text }).catch(() => ({ valid: true }));
      if (byId("command").value !== text) return;
      this.mark(found.valid ? null : found.why, found.valid ? null : placeOf(tree, found.where));
    }, TYPING);
  }

  mark(why, place = null) {
    const editor = byId("command"), marked = byId("marked"), text = editor.value;
    editor.setAttribute("aria-invalid", String(why !== null));
    byId("wrong").textContent = why === null ? "" : `${lineAndColumn(text, place.start)}: ${why}`;
    marked.replaceChildren(text.slice(0, place?.start ?? 0));
    if (place) {
      made("mark", text.slice(place.start, place.end) || " ", marked);
      marked.append(`${text.slice(place.end)}\n`);
    }
    marked.scrollTop = editor.scrollTop;
  }
}

/** The field of one setting, with what its schema says about it. */
function settingField(setting) {
  const label = document.createElement("label");
  made("span", setting.name + (setting.required ? " *" : ""), label);
  const choices = setting.kind === "boolean" ? [true, false] : setting.choices;
  const field = document.createElement(choices.length ? "select" : "input");
  if (choices.length) {
    if (!setting.required || setting.nullable) field.append(new Option("", ""));
    for (const choice of choices) field.append(new Option(String(choice), JSON.stringify(choice)));
  } else if (setting.kind === "integer" || setting.kind === "number") {
    field.type = "number";
    field.step = setting.kind === "integer" ? "1" : "any";
    if (setting.least !== undefined) field.min = setting.least;
    if (setting.most !== undefined) field.max = setting.most;
  }
  field.dataset.setting = setting.name;
  field.required = setting.required;
  field.title = setting.meaning;
  field.value = choices.length ? JSON.stringify(setting.initial) ?? "" : written(setting, setting.initial);
  label.append(field);
  return label;
}
