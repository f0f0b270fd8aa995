// The page: asks the server each second, and shows what it says.

import { Recorder } from "./recorder.mjs";
import { DATATYPES, duration, imageOf, inputOf, parseCsv, parseNpy, points, rates, size } from "./shaping.mjs";

const EVERY = 1000; // milliseconds
const KEPT = 120; // samples
const CHARTS = [
  ["requests", "requests a second", (number) => number.toFixed(number < 10 ? 1 : 0)],
  ["queued", "waiting", (number) => String(number)],
  ["p99", "p99", (number) => `${number.toFixed(number < 10 ? 1 : 0)} ms`],
  ["batch", "in one batch", (number) => (number ? number.toFixed(1) : "–")],
];

const root = new URL("..", location.href);
const byId = (id) => document.getElementById(id);
const cards = new Map();

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(new URL(path, root), { ...options, headers });
  if (answer.status === 401) {
    byId("refused").textContent = token ? "the server does not know this token" : "";
    byId("login").hidden = false;
    throw new Error("a token is wanted");
  }
  const body = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw new Error(body.error ?? `status ${answer.status}`);
  return body;
}

const infer = (model, inputs) => ask(`v2/models/${model}/infer`, { method: "POST", body: JSON.stringify({ inputs }) });
const recorder = new Recorder(infer);

function made(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

class Card {
  constructor(model) {
    this.element = byId("model").content.firstElementChild.cloneNode(true);
    this.samples = [];
    this.cpu = new Map();
    this.charts = CHARTS.map(([key, title, spell]) => this.chart(key, title, spell));
    this.of(".name").textContent = model.name;
    this.of(".version").textContent = `version ${model.version}`;
    this.of(".platform").textContent = model.platform;
    this.of(".try").addEventListener("submit", (event) => this.run(event, model.name));
  }

  of(selector) {
    return this.element.querySelector(selector);
  }

  chart(key, title, spell) {
    const figure = made("figure", "", this.of(".charts"));
    figure.innerHTML = '<figcaption><span></span><b></b></figcaption><svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img"><polyline></polyline></svg>';
    figure.querySelector("span").textContent = title;
    return { key, spell, title, value: figure.querySelector("b"), svg: figure.querySelector("svg"), line: figure.querySelector("polyline"), numbers: [] };
  }

  show(model, now) {
    const badge = this.of(".badge");
    badge.textContent = model.ready ? "ready" : model.failure ? "failed" : "loading";
    badge.className = `badge ${model.ready ? "ready" : "waiting"}`;
    this.element.classList.toggle("out", !model.ready);
    this.of(".failure").textContent = model.failure ?? "";
    if (!this.of("fieldset")) this.offer(model.inputs);
    if (!model.stats) return;
    const last = this.samples.at(-1);
    this.samples = [...this.samples.slice(-1), { now, stats: model.stats }];
    if (last) this.draw(rates(last.stats, model.stats, (now - last.now) / 1000));
    this.list(model.workers, now);
  }

  draw(found) {
    for (const chart of this.charts) {
      chart.numbers = [...chart.numbers, found[chart.key]].slice(-KEPT);
      chart.value.textContent = chart.spell(found[chart.key]);
      chart.line.setAttribute("points", points(chart.numbers, KEPT));
      chart.svg.setAttribute("aria-label", `${chart.title}: ${chart.value.textContent}`);
    }
  }

  list(workers, now) {
    const rows = workers.map((worker) => {
      const row = document.createElement("tr");
      const before = this.cpu.get(worker.pid);
      const used = before && worker.cpu !== null ? (worker.cpu - before.cpu) / ((now - before.now) / 1000) : 0;
      this.cpu.set(worker.pid, { now, cpu: worker.cpu ?? 0 });
      const runs = worker.command ? `${worker.command} for ${duration(worker.seconds)}` : "nothing";
      for (const text of [worker.pid, size(worker.memory), `${Math.round(used * 100)} %`, runs]) made("td", text, row);
      return row;
    });
    this.of(".workers tbody").replaceChildren(...rows);
  }

  offer(inputs) {
    const declared = inputs.length ? inputs : [{ name: "x", datatype: "FP64", shape: [1] }];
    for (const input of declared) this.of(".inputs").append(field(input));
  }

  async run(event, name) {
    event.preventDefault();
    const answer = this.of(".answer");
    answer.className = "answer";
    answer.textContent = "…";
    try {
      const fields = [...this.element.querySelectorAll("fieldset")].map(valuesOf);
      const begun = performance.now();
      const found = await infer(name, fields.map(inputOf));
      const took = (performance.now() - begun).toFixed(1);
      const outputs = found.outputs.map((one) => `${one.name}: ${one.datatype} [${one.shape}]\n${JSON.stringify(one.data)}`);
      answer.textContent = [...outputs, `${took} ms`].join("\n");
    } catch (error) {
      answer.className = "answer wrong";
      answer.textContent = error.message;
    }
  }
}

const FIELDS = ["name", "datatype", "shape", "data"];
const valuesOf = (fieldset) => Object.fromEntries(FIELDS.map((key) => [key, fieldset.querySelector(`.${key}`).value]));

function field({ name, datatype, shape }) {
  const fieldset = byId("input").content.firstElementChild.cloneNode(true);
  const of = (selector) => fieldset.querySelector(selector);
  of("legend").textContent = `${name}: ${datatype} [${shape.map((length) => (length < 0 ? "any" : length))}]`;
  for (const known of DATATYPES) made("option", known, of(".datatype"));
  of(".name").value = name;
  of(".datatype").value = datatype;
  of(".shape").value = shape.map((length) => (length < 0 ? 1 : length)).join(", ");

  async function take(file) {
    try {
      const found = await read(file);
      if (!/\.(csv|txt)$/.test(file.name)) of(".datatype").value = found.datatype;
      of(".shape").value = found.shape.join(", ");
      of(".data").value = JSON.stringify(found.data).slice(1, -1);
      of(".data").setCustomValidity("");
    } catch (error) {
      of(".data").setCustomValidity(`${file.name}: ${error.message}`);
      of(".data").reportValidity();
    }
  }

  of(".data").addEventListener("input", () => of(".data").setCustomValidity(""));
  of(".file").addEventListener("change", () => of(".file").files[0] && take(of(".file").files[0]));
  fieldset.addEventListener("dragover", (event) => { event.preventDefault(); fieldset.classList.add("over"); });
  fieldset.addEventListener("dragleave", () => fieldset.classList.remove("over"));
  fieldset.addEventListener("drop", (event) => {
    event.preventDefault();
    fieldset.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  return fieldset;
}

async function read(file) {
  if (file.name.endsWith(".npy")) return parseNpy(await file.arrayBuffer());
  if (!file.type.startsWith("image/")) return parseCsv(await file.text());
  const image = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return imageOf(pen.getImageData(0, 0, image.width, image.height));
}

function showClients(clients) {
  const place = byId("clients");
  if (!clients.length) {
    place.innerHTML = '<p class="none">none is connected</p>';
    return;
  }
  const table = document.createElement("table");
  table.innerHTML = "<thead><tr><th>client</th><th>has</th><th>for</th><th></th></tr></thead><tbody></tbody>";
  for (const client of clients) {
    const row = made("tr", "", table.tBodies[0]);
    const has = client.has_process ? "a worker" : "a share of a model";
    for (const text of [client.id.slice(0, 8), has, duration(client.seconds)]) made("td", text, row);
    const actions = made("td", "", row);
    for (const [text, path, method] of [["interrupt", `workers/${client.id}/interrupt`, "POST"], ["end", `workers/${client.id}`, "DELETE"]]) {
      const button = made("button", text, actions);
      button.setAttribute("aria-label", `${text} ${client.id.slice(0, 8)}`);
      button.addEventListener("click", () => ask(path, { method }).catch((error) => say(error.message)));
    }
  }
  place.replaceChildren(table);
}

const say = (text) => { byId("server").textContent = text; };

function show(status) {
  const now = performance.now();
  byId("login").hidden = true;
  say(`version ${status.version}, process ${status.pid}, up ${duration(status.seconds)}`);
  recorder.offer(status.models.filter((model) => model.ready).map((model) => model.name));
  const place = byId("models");
  for (const model of status.models) {
    if (!cards.has(model.name)) {
      const card = new Card(model);
      cards.set(model.name, card);
      place.querySelector(".none")?.remove();
      place.append(card.element);
    }
    cards.get(model.name).show(model, now);
  }
  for (const [name, card] of cards) {
    if (!status.models.some((model) => model.name === name)) {
      card.element.remove();
      cards.delete(name);
    }
  }
  if (!byId("clients").contains(document.activeElement)) showClients(status.clients);
}

async function watch() {
  try {
    show(await ask("status"));
  } catch (error) {
    say(error.message);
  }
  setTimeout(watch, document.hidden ? 10 * EVERY : EVERY);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  byId("token").value = "";
  ask("status").then(show, (error) => say(error.message));
});

watch();
