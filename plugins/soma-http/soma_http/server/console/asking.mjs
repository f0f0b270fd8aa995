// What the page asks its server: requests with the token, and a worker of the page's own.

const root = new URL("..", location.href);
const byId = (id) => document.getElementById(id);
const URL_SAFE = { "+": "-", "/": "_", "=": "" };
const coded = (token) => btoa(token).replace(/[+/=]/g, (letter) => URL_SAFE[letter]);

/** Takes the token that `soma console` puts behind the address, and keeps it out of the history. */
export function takeToken() {
  if (location.hash.length < 2) return;
  sessionStorage.setItem("token", decodeURIComponent(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname);
}

async function answered(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(new URL(path, root), { ...options, headers });
  if (answer.status === 401) {
    byId("refused").textContent = token ? "the server does not know this token" : "";
    byId("login").hidden = false;
    throw new Error("a token is wanted");
  }
  if (!answer.ok) throw new Error((await answer.json()).error ?? `status ${answer.status}`);
  return answer;
}

export async function ask(path, options) {
  const answer = await answered(path, options);
  return answer.status === 204 ? {} : answer.json();
}

export const infer = (model, inputs) => ask(`v2/models/${model}/infer`, { method: "POST", body: JSON.stringify({ inputs }) });

/** Runs a recording again in a worker; `take` gets what came of each command. */
export async function replayed(file, take) {
  const answer = await answered("replay", { method: "POST", body: file });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const outcome = JSON.parse(line);
      if (outcome.error) throw new Error(outcome.error);
      take(outcome);
    }
  }
}

/** A worker of the page's own: a line for each command, answered one after the other. */
export class OwnWorker {
  constructor(ended) {
    this.waiting = [];
    const token = sessionStorage.getItem("token");
    const address = new URL("workers", root);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address, ["soma", ...(token ? [`soma.token.${coded(token)}`] : [])]);
    this.open = new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.socket.addEventListener("error", () => reject(new Error("the server has no worker for this page now")));
    });
    this.socket.addEventListener("message", (event) => this.take(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => {
      for (const { reject } of this.waiting) reject(new Error(`the worker has ended ${event.reason}`));
      this.waiting = [];
      ended();
    });
  }

  take(message) {
    if ("event" in message || "soma" in message) return;
    this.waiting.shift()?.resolve(message);
  }

  async send(text) {
    await this.open;
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.socket.send(text.replaceAll("\n", " "));
    });
  }

  close() {
    this.socket.close();
  }
}
